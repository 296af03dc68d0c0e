# A received-instance callback that changes some bytes, discards some files, and leaves the rest.
import orthanc


def Received(dicom, origin):
    if b'DISCARD' in dicom:
        return orthanc.ReceivedInstanceAction.DISCARD, None
    if b'RENAME' in dicom:
        return orthanc.ReceivedInstanceAction.MODIFY, dicom.replace(b'RENAME', b'CALLED')
    return orthanc.ReceivedInstanceAction.KEEP_AS_IS, None


orthanc.RegisterReceivedInstanceCallback(Received)
