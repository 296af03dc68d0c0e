# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is mistyped in a configuration never widens what a script does: it stays idle, and one ERROR line says why."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from common.settings import is_nearly, key_of
from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer, dcmtk_program
from testing.standin import StandIn
from tests.scripts import combine_scripts

ROOT = Path(__file__).parents[2]
SECRET = "a secret of at least thirty-two characters"  # noqa: S105
# Of each script: its section, and what else a configuration needs for the script to run.
SECTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "anonymize_series.py": ("AnonymizeSeries", {"AnonymizeSeries": {"Secret": SECRET}}),
    "audit_log.py": ("AuditLog", {}),
    "auto_forward_dicomweb.py": ("AutoForwardDicomweb", {}),
    "auto_forward_modality.py": ("AutoForwardModality", {}),
    "auto_forward_peer.py": ("AutoForwardPeer", {}),
    "auto_retries.py": ("AutoRetries", {}),
    "cmove_interceptor.py": ("CMoveInterceptor", {}),
    "dashboard.py": ("Dashboard", {}),
    "dicom_events/__init__.py": ("DicomEvents", {}),
    "purge_old_studies.py": ("PurgeOldStudies", {}),
    "series_private_tags.py": (
        "SeriesMainPrivateDicomTags",
        {"SeriesMainPrivateDicomTags": {"Tags": ["0029,1010:CREATOR"]}},
    ),
    "series_thumbnail.py": ("SeriesThumbnail", {}),
}
WITHOUT = {"combine.py", "event_dispatcher.py", "instance_dump.py"}  # no section of their own
Steps = tuple[str | int, ...]


class Script:
    """A script loaded once on a stand-in, to be registered anew with each configuration."""

    def __init__(self, standin: StandIn, file: str) -> None:
        self.standin, (self.section, self.configuration) = standin, SECTIONS[file]
        standin.returns["LookupDictionary"] = {"Group": 8, "Element": 0x60}
        self.module = standin.load(ROOT / file)
        package = Path(file).parent.name
        self.settings = sys.modules[f"{package}.settings"] if package else self.module

    def start(self, configuration: Mapping[str, Any]) -> list[str]:
        """Register it, and give the ERROR lines."""
        self.standin.logs.clear()
        self.standin.registered.clear()
        self.standin.configuration = dict(configuration)
        if self.settings is self.module:
            self.module.register()
        else:
            sys.modules["dicom_events.service"].Service().register()
        return [text for level, text in self.standin.logs if level == "error"]

    def with_section(self, section: Any) -> dict[str, Any]:
        own = self.configuration.get(self.section, {})
        return {**self.configuration, self.section: {**own, **section}}

    def is_refused(self) -> bool:
        """Return whether it listens to nothing: it stays idle for its configuration."""
        listens = self.standin.callback("RegisterOnChangeCallback")
        return "ignore_change" in {getattr(cell.cell_contents, "__name__", "") for cell in listens.__closure__}

    def _check_deaf(self) -> None:
        """What Orthanc reports has no effect: from start to stop, it is reported that the script is idle."""
        orthanc: Any = self.standin.module
        before = len(self.standin.calls)
        for name in ("NEW_INSTANCE", "STABLE_STUDY", "STABLE_SERIES", "DELETED", "JOB_FAILURE", "UPDATED_MODALITIES"):
            self.standin.on_change(getattr(orthanc.ChangeType, name), orthanc.ResourceType.STUDY, "identifier")
        assert self.standin.calls[before:] == []
        assert self.is_refused()

    def check_idle(self, line: str) -> None:
        """Nothing acts, and each route answers 503 with the line, but for those that speak of scripts and routes."""
        registered = self.standin.registered
        names = {name for name in registered if not name.startswith("RegisterMove")}
        assert names == {"RegisterRestCallback", "RegisterOnChangeCallback"}
        self._check_deaf()
        patterns = {pattern for pattern, _ in registered["RegisterRestCallback"]}
        assert patterns
        for pattern in patterns:
            uri = re.sub(r"\([^)]+\)", "1", pattern.replace("(pause|resume)", "pause"))
            for method, handler in self.module.ROUTES[pattern].items():
                if handler.__name__ in ("list_routes", "list_scripts", "health"):
                    continue
                answer = self.standin.http(method, uri)
                assert (answer.status, answer.json()["Message"]) == (503, line), (method, uri)
                assert not uri.endswith("/status") or answer.json()["State"] == "misconfigured"


@pytest.fixture(scope="module", params=SECTIONS)
def script(request: pytest.FixtureRequest) -> Iterator[Script]:
    standin = StandIn()
    with standin.installed():
        yield Script(standin, request.param)
    for name in [each for each in sys.modules if each.partition(".")[0] == "dicom_events"]:
        del sys.modules[name]


def keys(cls: Any, before: Steps = ()) -> Iterator[Steps]:
    """The path to each key of a dataclass, at every depth: the first of a list, and anything of a free name."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        path = (*before, key_of(field))
        yield path
        hint = hints[field.name]
        for inner in [hint, *typing.get_args(hint)]:
            if dataclasses.is_dataclass(inner):
                step = {tuple: (0,), dict: ("A",)}.get(typing.get_origin(hint), ())
                yield from keys(inner, (*path, *step))


def section_with(path: Steps, value: Any = None) -> Any:
    """The smallest section that has this path."""
    for step in reversed(path):
        value = {step: value} if isinstance(step, str) else [value]
    return value


def as_text(path: Steps) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)


def misspellings(key: str) -> Iterator[str]:
    """A key with a letter too few, too many, two of them swapped, and in the wrong case."""
    middle = len(key) // 2
    yield key[:middle] + key[middle + 1 :]
    yield key[:middle] + key[middle] + key[middle:]
    yield key[: middle - 1] + key[middle] + key[middle - 1] + key[middle + 1 :]
    yield key[0].lower() + key[1:]
    yield key.upper()


def check_key(line: str, path: Steps, wrong: str) -> None:
    """One line names section and key, and the nearest known one."""
    assert "\n" not in line
    begin = f"{as_text((*path[:-1], wrong))[1:]} is not a known key ("
    assert line.startswith(begin), (line, begin)
    said = line.removeprefix(begin)
    assert said.startswith(f"did you mean {path[-1]}?)") or re.match(rf"allowed: .*\b{path[-1]}\b", said), line


def test_each_script_with_a_section_is_here() -> None:
    assert {path.name for path in ROOT.glob("*.py")} == WITHOUT | {name for name in SECTIONS if "/" not in name}


def test_each_script_runs_with_what_it_is_given_here(script: Script) -> None:
    """Else a script that is idle for another reason would pass."""
    assert script.start(script.configuration) == []
    assert not script.is_refused()


def test_each_misspelt_key_at_every_depth_leaves_the_script_idle_and_is_named_with_the_nearest(script: Script) -> None:
    paths = list(keys(script.settings.Settings))
    assert len(paths) >= 3
    for path in paths:
        known = {each[-1] for each in paths if each[:-1] == path[:-1]}
        for wrong in {*misspellings(str(path[-1]))} - known:
            section = script.with_section(section_with((*path[:-1], wrong), 1))
            [line] = script.start(section)
            check_key(line, (script.section, *path), wrong)
            script.check_idle(line)


def test_each_misspelt_section_leaves_the_script_idle_also_beside_the_right_one(script: Script) -> None:
    for wrong in misspellings(script.section):
        for beside in ({}, script.configuration):
            [line] = script.start({**beside, wrong: {}})
            assert line.startswith(f"{wrong} is not a known section (did you mean {script.section}?)")
            script.check_idle(line)


def test_no_key_of_orthanc_no_section_of_ours_and_of_known_plugins_is_taken_for_a_misspelt_one(script: Script) -> None:
    others = {**dict.fromkeys(KNOWN_ELSEWHERE), **dict.fromkeys(section for section, _ in SECTIONS.values())}
    others.pop(script.section)
    assert [other for other in others if is_nearly(other, script.section)] == []
    for ours in ("UserMetadata", "UserContentType"):
        assert [other for other in KNOWN_ELSEWHERE if is_nearly(other, ours)] == [ours]


@pytest.fixture(scope="module")
def events() -> Iterator[Script]:
    standin = StandIn()
    with standin.installed():
        yield Script(standin, "dicom_events/__init__.py")
    for name in [each for each in sys.modules if each.partition(".")[0] == "dicom_events"]:
        del sys.modules[name]


def test_a_misspelt_key_of_a_broker_puts_only_that_broker_off(events: Script) -> None:
    settings = sys.modules["dicom_events.broker_settings"]
    for kind, (name, config) in settings.CONFIGS.items():
        own = [(name, *path) for path in keys(config)]
        for path in [*keys(settings.BrokerSettings), (name,), *own]:
            known = {key_of(field) for field in dataclasses.fields(settings.BrokerSettings)} | {str(path[-1])}
            for wrong in {*misspellings(str(path[-1]))} - known:
                broker = {"Type": kind, **section_with((*path[:-1], wrong), 1)}
                section = {"Broker": {"Type": "log"}, "Brokers": {"wrong": broker}}
                [line] = events.start({"DicomEvents": section})
                check_key(line, ("DicomEvents", "Brokers", "wrong", *path), wrong)
                assert "This broker is off until this is corrected." in line
                assert not events.is_refused()


def test_what_another_type_of_broker_reads_puts_the_broker_off(events: Script) -> None:
    [line] = events.start({"DicomEvents": {"Broker": {"Type": "log", "FileConfig": {}}}})
    assert line.startswith("DicomEvents.Broker: found FileConfig, allowed: LogConfig, for its Type is log")


@pytest.mark.parametrize("script", ["auto_forward_modality.py", "auto_forward_peer.py"], indirect=True)
def test_each_misspelt_store_option_leaves_a_forwarder_idle_for_orthanc_would_ignore_it(script: Script) -> None:
    path = ("DestinationOptions", "A", "Options")
    for option in script.module.STORE_OPTIONS:
        for wrong in misspellings(option):
            [line] = script.start({script.section: section_with((*path, wrong), 1)})
            check_key(line, (script.section, *path, option), wrong)
            script.check_idle(line)
        script.standin.returns["CheckVersionAdvanced"] = 1  # the newest Orthanc, which knows all of them
        assert script.start({script.section: section_with((*path, option), 1)}) == []


@pytest.mark.parametrize(
    ("script", "section", "wrong", "right"),
    [
        ("series_thumbnail.py", "UserMetadata", "ThumbnailInstanceId", "ThumbnailInstanceID"),
        ("series_thumbnail.py", "UserContentType", "SeriesThumnail", "SeriesThumbnail"),
        ("series_private_tags.py", "UserMetadata", "SeriesPrivateTag", "SeriesPrivateTags"),
    ],
    indirect=["script"],
)
def test_a_misspelt_name_of_our_metadata_leaves_the_script_idle(
    script: Script, section: str, wrong: str, right: str
) -> None:
    [line] = script.start({**script.configuration, section: {wrong: 5000}})
    assert line.startswith(f'{section}: found "{wrong}" (did you mean "{right}"?)')
    script.check_idle(line)
    mistyped = section[:4] + section[4:].lower()
    [line] = script.start({**script.configuration, mistyped: {right: 5000}})
    assert line.startswith(f"{mistyped} is not a known section (did you mean {section}?)")
    script.check_idle(line)


@pytest.mark.parametrize("script", ["cmove_interceptor.py"], indirect=True)
@pytest.mark.parametrize(
    ("configuration", "refuses"),
    [
        ({"CMoveInterceptor": {"Notify": [{"Url": "http://h/", "Requird": True}]}}, True),
        ({"CMoveInterceptor": {"Notify": [{"Url": "http://h/", "required": True}]}}, True),
        ({"CMoveInterceptor": {"Notify": [{"Ulr": "http://h/", "Required": True}]}}, True),
        ({"CMoveInterceptor": {"Mod": "notify"}}, True),
        ({"CMoveInterceptor": {"Mode": "Notfy"}}, True),
        ({"CMoveInterceptor": {"Ruls": [{"Mode": "notify"}]}}, True),
        ({"cmove_interceptor": {"Mode": "notify"}}, True),
        ({"CMoveInterceptor": {"Notfy": [{"Url": "http://h/"}]}}, False),
        ({"CMoveInterceptor": {"Notify": [{"Ulr": "http://h/", "Required": False}]}}, False),
        ({"CMoveInterceptor": {"Mod": "fetch"}}, False),
    ],
)
def test_a_wrong_section_that_seems_to_hold_moves_back_refuses_all_else_orthanc_moves(
    script: Script, configuration: dict[str, Any], refuses: bool
) -> None:
    [line] = script.start(configuration)
    script.check_idle(line)
    assert ("refuses every C-MOVE until" in line) == refuses
    assert ("moves as Orthanc does and tells nobody until" in line) != refuses
    assert any("Move" in name for name in script.standin.registered) == refuses
    if refuses:
        move = script.standin.callback("RegisterMoveCallback")
        with pytest.raises(Exception, match=re.escape(line)):
            move(Level="STUDY", TargetAET="PACS", StudyInstanceUID="1.2.3")


@pytest.mark.parametrize("script", ["cmove_interceptor.py"], indirect=True)
@pytest.mark.parametrize(("section", "refuses"), [({"Mode": "notify"}, True), ({"Associations": 1}, False)])
def test_without_orthancs_http_server_it_is_likewise(script: Script, section: dict[str, Any], refuses: bool) -> None:
    [line] = script.start({"HttpServerEnabled": False, "CMoveInterceptor": section})
    assert line.startswith("cmove_interceptor stays idle: it needs Orthanc's HTTP server")
    assert any("Move" in name for name in script.standin.registered) == refuses


# On a real Orthanc

MISTYPED: dict[str, Any] = {
    "AnonymizeSeries": {"Secret": SECRET, "Recipes": {"research": {"Remov": ["StudyDescription"]}}},
    "AuditLog": {"KepDays": 1},
    "AutoForwardDicomWeb": {"Destinations": []},
    "AutoForwardModality": {"Destination": []},
    "autoForwardPeer": {"Destinations": []},
    "AutoRetries": {"Retry": {"GiveUpHour": 1}},
    "CMoveInterceptor": {"Notify": [{"Url": "http://127.0.0.1:9/", "Requird": True}]},
    "DicomEvents": {"Brokr": {"Type": "log"}},
    "PurgeOldStudies": {"Rules": [{"Name": "all", "OlderThan": "1d", "At": "00:00", "Querry": {"PatientID": "X"}}]},
    "SeriesMainPrivateDicomTags": {"Tag": []},
    "SeriesThumbnails": {"Size": 64},
}


@pytest.fixture(scope="module")
def all_combined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("combined") / "combined.py"
    scripts = [ROOT / Path(name).parent if "/" in name else ROOT / name for name in SECTIONS]
    return combine_scripts(*scripts, to=path)


def move(server: OrthancServer, target: str, study: str) -> int:
    """A C-MOVE by dcmtk's movescu; its exit status."""
    command = [dcmtk_program("movescu"), "-aem", target, "-S", "-k", "QueryRetrieveLevel=STUDY"]
    command += [
        "-k",
        f"StudyInstanceUID={study}",
        "-aet",
        "ASKS",
        "-aec",
        "ORTHANC",
        "127.0.0.1",
        str(server.dicom_port),
    ]
    return subprocess.run(command, check=False, capture_output=True, timeout=60).returncode


def test_with_a_mistyped_key_for_each_script_orthanc_runs_and_nothing_is_sent_and_each_script_says_why(
    start_orthanc: StartOrthanc, all_combined: Path
) -> None:
    destination = start_orthanc(aet="DEST")
    everywhere = {
        "DicomModalities": {"DEST": destination.as_modality(), "ASKS": ["ASKS", "127.0.0.1", 1]},
        "OrthancPeers": {"DEST": destination.as_peer()},
        "StableAge": 1,
    }
    server = start_orthanc(all_combined, {**everywhere, **MISTYPED})
    study = make_study(study_date="19990101")
    assert all(answer["Status"] == "Success" for answer in server.store(study))
    errors = [line for line in server.log.splitlines() if line.startswith("E") and "did you mean" in line]
    assert len(errors) == len(MISTYPED), errors
    for route in (
        *("anonymize-series/status", "audit-log/status", "auto-forward-dicomweb/status"),
        *("auto-forward-modality/status", "auto-forward-peer/status"),
        *("auto-retries/status", "cmove-interceptor/status", "dicom-events/status", "purge-old-studies/status"),
        *("with-private-tags/series", "series-thumbnail/status", "purge-old-studies?since=20200101"),
    ):
        answer = server.request("GET", f"/{route}")
        assert answer.status_code == 503, route
        assert sum(answer.json()["Message"] in line for line in errors) == 1, route
    server.wait_until_stable()
    [there] = server.get("/studies", expand="")
    assert (
        move(server, "DEST", there["MainDicomTags"]["StudyInstanceUID"]) != 0
    )  # its section asked for a required service
    assert server.get("/jobs") == []
    assert destination.get("/instances") == []
    assert len(server.get("/instances")) == len(study)


def test_with_a_mistyped_key_that_holds_nothing_back_orthancs_own_move_goes_on(start_orthanc: StartOrthanc) -> None:
    destination = start_orthanc(aet="DEST")
    nodes = {"DEST": destination.as_modality(), "ASKS": ["ASKS", "127.0.0.1", 1]}
    server = start_orthanc(ROOT / "cmove_interceptor.py", {"DicomModalities": nodes, "CMoveInterceptor": {"Notfy": []}})
    server.store(make_study())
    [study] = server.get("/studies", expand="")
    assert move(server, "DEST", study["MainDicomTags"]["StudyInstanceUID"]) == 0
    assert len(destination.get("/instances")) == 1


# What Orthanc itself reads at the top of a configuration (1.10.1 to 1.13.0), and sections of plugins.
KNOWN_ELSEWHERE = """
AcceptedSopClasses AcceptedTransferSyntaxes AdvancedStorage AuthenticationEnabled Authorization AwsS3Storage
AzureBlobStorage BuiltinDecoderTranscoderOrder CaseSensitivePN CheckRevisions CombinedScripts ConcurrentJobs
Connectivity ConnectivityChecks DatabaseServerIdentifier DefaultEncoding DefaultPrivateCreator
DeflatedTransferSyntaxAccepted DeidentifyLogs DeidentifyLogsDicomVersion DelayedDeletion DicomAet
DicomAlwaysAllowEcho DicomAlwaysAllowFind DicomAlwaysAllowFindWorklist DicomAlwaysAllowGet DicomAlwaysAllowMove
DicomAlwaysAllowStore DicomAssociationCloseDelay DicomAutoRouter DicomCheckCalledAet DicomCheckModalityHost
DicomDefaultRetrieveMethod DicomEchoChecksFind DicomLossyTranscodingQuality DicomModalities
DicomModalitiesInDatabase DicomParserCacheSize DicomParserMemoryCapacity DicomParserThreadsCount DicomPort
DicomScpTimeout DicomScuPreferredTransferSyntax DicomScuTimeout DicomServerEnabled DicomThreadsCount
DicomTlsCertificate DicomTlsCiphersAccepted DicomTlsEnabled DicomTlsMinimumProtocolVersion DicomTlsPrivateKey
DicomTlsRemoteCertificateRequired DicomTlsTrustedCertificates DicomWeb Dictionary Education EducationPlugin
ExecuteLuaEnabled ExternalDictionaries ExtraMainDicomTags Gdcm GoogleCloudStorage H265TransferSyntaxAccepted
Housekeeper HttpBindAddresses HttpCompressionEnabled HttpDescribeErrors HttpPort HttpProxy HttpRequestTimeout
HttpServerEnabled HttpThreadsCount HttpTimeout HttpVerbose HttpsCACertificates HttpsVerifyPeers IndexDirectory
Indexer IndexerPlugin IngestTranscoding IngestTranscodingOfCompressed IngestTranscodingOfUncompressed Java
JobsEngineThreadsCount JobsHistorySize Jpeg2000TransferSyntaxAccepted JpegLosslessTransferSyntaxAccepted
JpegTransferSyntaxAccepted JpipTransferSyntaxAccepted Kafka KeepAlive KeepAliveTimeout LimitFindInstances
LimitFindResults LoadPrivateDictionary Locale LogExportedResources LuaHeartBeatPeriod LuaScripts Mail MallocArenaMax
MaximumConcurrentDcmtkTranscoders MaximumFileSizeInArchiveMB MaximumPatientCount MaximumPduLength
MaximumRequestBodySizeMB MaximumStorageCacheSize MaximumStorageMode MaximumStorageSize MediaArchiveSize
MetricsEnabled ModalityWorklists Mpeg2TransferSyntaxAccepted Mpeg4TransferSyntaxAccepted MultitenantDicom MySQL Name
Neuro ODBC OHIF ORTHANC OrthancExplorer2 OrthancExplorerEnabled OrthancPeers OrthancPeersInDatabase OsimisWebViewer
OverwriteInstances PatientLevelEnabled Pkcs11 Plugins PostgreSQL Python PythonScript PythonVerbose QueryRetrieveSize
Rabbit ReadOnly RegisteredUsers RejectedSopClasses RemoteAccessAllowed ResourceModification
RestApiWriteToFileSystemEnabled RleTransferSyntaxAccepted SQLite STL SaveJobs Scripts
SequentialDicomReaderThreadsCount SequentialDicomReaderWindowCapacity SequentialDicomReaderWindowSize ServeFolders
SslCertificate SslCiphersAccepted SslEnabled SslMinimumProtocolVersion SslTrustedClientCertificates SslVerifyPeers
StableAge StoneWebViewer StorageAccessOnFind StorageCommitment StorageCommitmentReportsSize StorageCompression
StorageDirectory StorageLoaderThreadsCount StorageMemoryCapacity StoreDicom StoreMD5ForAttachments
StrictAetComparison SyncStorageArea SynchronousCMove SynchronousZipStream Tcia TcpNoDelay TemporaryDirectory
TranscodeDicomProtocol TranscoderCacheSize TranscoderMemoryCapacity TranscoderThreadsCount Transfers
UnknownSopClassAccepted UploadAtStart UserContentType UserMetadata Verbose VolView WSI Warnings WebDavDeleteAllowed
WebDavEnabled WebDavUploadAllowed WebViewer WholeSlideImaging Worklists ZipLoaderThreads ZipUseUtf8
""".split()  # noqa: SIM905
