# A class with state whose bound methods are registered, dataclasses, pickling, a lazy import.
from __future__ import annotations

import dataclasses
import pickle

import orthanc


@dataclasses.dataclass
class Seen:
    change: int
    level: int
    note: str = ''


class Keeper:
    def __init__(self):
        self.seen: list[Seen] = []
        self.stored = 0

    def on_change(self, change, level, resource):
        if change in (orthanc.ChangeType.STABLE_STUDY, orthanc.ChangeType.DELETED):
            self.seen.append(Seen(change, level))
        if change == orthanc.ChangeType.DELETED and level == orthanc.ResourceType.PATIENT:
            print('keeps_state deleted the last')

    def on_stored(self, dicom, instance):
        self.stored += 1
        orthanc.LogWarning('stored %d bytes' % dicom.GetInstanceSize())

    def answer(self, output, uri, **request):
        import json  # lazily
        again = pickle.loads(pickle.dumps(self.seen))
        assert again == self.seen
        body = {'seen': sorted(map(dataclasses.astuple, again)), 'stored': self.stored, 'method': request['method']}
        if 'body' in request:
            body['body'] = request['body'].decode()
        output.AnswerBuffer(json.dumps(body), 'application/json')


changes = Keeper()  # the name that counts_changes.py has for something else
orthanc.RegisterOnChangeCallback(changes.on_change)
orthanc.RegisterOnStoredInstanceCallback(changes.on_stored)
orthanc.RegisterRestCallback('/keeps-state', changes.answer)
