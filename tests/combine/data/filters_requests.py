# An HTTP filter that keeps one route to those who know the word.
import orthanc

asked = []


def Filter(uri, **request):
    asked.append((uri, request['method'], request['headers'].get('x-word'), sorted(request)))
    if uri == '/statistics':
        return request['headers'].get('x-word') == 'please'
    return True


def Asked(output, uri, **request):
    output.AnswerBuffer(repr([one for one in asked if one[0] == '/statistics']), 'text/plain')


orthanc.RegisterIncomingHttpRequestFilter(Filter)
orthanc.RegisterRestCallback('/filters-requests', Asked)
