# A filter of what comes by C-STORE, which refuses one patient with a status of its own.
import json

import orthanc

answers = []


def Filter(received):
    patient = json.loads(received.GetInstanceSimplifiedJson())['PatientID']
    answers.append((patient, 0xa700 if patient == 'REFUSED' else 0))
    return answers[-1][1]


def Answers(output, uri, **request):
    output.AnswerBuffer(repr(answers), 'text/plain')


orthanc.RegisterIncomingCStoreInstanceFilter(Filter)
orthanc.RegisterRestCallback('/filters-instances', Answers)
