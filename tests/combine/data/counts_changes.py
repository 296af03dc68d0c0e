# In the manner of the Book's first sample: a function, a global, a print.
import orthanc

changes = []


def OnChange(changeType, level, resource):
    changes.append((changeType, level))
    if changeType == orthanc.ChangeType.NEW_INSTANCE:
        print('counts_changes saw the instance %s' % resource)
    if changeType == orthanc.ChangeType.DELETED and level == orthanc.ResourceType.PATIENT:
        print('counts_changes deleted the last')


def OnRest(output, uri, **request):
    output.AnswerBuffer(repr((__name__, uri, request['groups'], sorted(set(changes)))), 'text/plain')


orthanc.RegisterOnChangeCallback(OnChange)
orthanc.RegisterRestCallback('/counts-changes(.*)', OnRest)
