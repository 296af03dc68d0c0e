# Storage commitment, for plugins that have it.
import orthanc


def Start(jobId, transactionUid, sopClassUids, sopInstanceUids, *where):
    orthanc.LogWarning('commitment of %d asked' % len(sopInstanceUids))


def Lookup(sopClassUid, sopInstanceUid, data):
    return orthanc.StorageCommitmentFailureReason.SUCCESS


if hasattr(orthanc, 'RegisterStorageCommitmentScpCallback2'):
    orthanc.RegisterStorageCommitmentScpCallback2(Start, Lookup)
elif hasattr(orthanc, 'RegisterStorageCommitmentScpCallback'):
    orthanc.RegisterStorageCommitmentScpCallback(Start, Lookup)
