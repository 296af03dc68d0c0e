# Answers C-MOVE and C-FIND of its own.
import json

import orthanc


def OnMove(**request):
    orthanc.LogWarning('move ' + json.dumps(request, sort_keys=True))


def OnFind(answers, query, issuerAet, calledAet):
    answers.FindAddAnswer(orthanc.CreateDicom(
        json.dumps({'PatientID': 'FOUND', 'QueryRetrieveLevel': 'PATIENT'}), None, orthanc.CreateDicomFlags.NONE))


orthanc.RegisterMoveCallback(OnMove)
orthanc.RegisterFindCallback(OnFind)
