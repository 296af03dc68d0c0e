# Hands each change to a thread, as the Book advises against deadlocks; a lambda as REST handler; a failing one too.
import threading

import orthanc

levels = set()
done = threading.Event()


def Work(changeType, level, resource):
    orthanc.LogWarning('in %s' % threading.current_thread().name)
    levels.add(level)
    done.set()
    if changeType == orthanc.ChangeType.DELETED and level == orthanc.ResourceType.PATIENT:
        print('uses_timers deleted the last')


def OnChange(changeType, level, resource):
    threading.Thread(target=Work, args=(changeType, level, resource), name='work').start()


def Fail(output, uri, **request):
    raise ValueError('no %s today' % request['get']['what'])


orthanc.RegisterOnChangeCallback(OnChange)
orthanc.RegisterRestCallback('/uses-timers', lambda output, uri, **request: (
    done.wait(5), output.AnswerBuffer('%s %s' % (__file__.rsplit('/')[-1], request['get'].get('q', '')), 'text/plain')))
orthanc.RegisterRestCallback('/uses-timers/fail', Fail)
orthanc.ExtendOrthancExplorer('// a button of uses_timers')
