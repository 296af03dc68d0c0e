# SPDX-License-Identifier: AGPL-3.0-or-later
"""The stand-in, held against the real plugin of the Orthanc under test."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import testing
from testing import refresh
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from testing.standin import Answer, StandIn, api, known_versions

HERE = Path(testing.__file__).parent
SECTIONS = ("functions", "classes", "enumerations", "exceptions", "refusals")

# Loaded by the real plugin and by the stand-in; what both answer must be equal.
PARITY = r"""
import json
import orthanc

def attempt(function, *arguments, **named):
    try:
        function(*arguments, **named)
    except Exception as error:
        return [type(error).__name__, str(error)]

def changed(*event):
    pass

orthanc.RegisterOnChangeCallback(changed)
SECOND = attempt(orthanc.RegisterOnChangeCallback, changed)
NONE = attempt(orthanc.RegisterOnChangeCallback)

def route(pattern):
    def register(handler):
        orthanc.RegisterRestCallback(pattern, handler)
        return handler
    return register

@route("/parity/echo/([a-z]+)(/x)?")
def echo(output, uri, **request):
    del request["headers"]["host"]
    request["body"] = request["body"].decode() if "body" in request else None
    output.AnswerBuffer(json.dumps({"uri": uri, **request}, sort_keys=True), "application/json")

@route("/parity/first")
def first(output, uri, **request):
    output.AnswerBuffer(b"first", "text/plain")

@route("/parity/firs.")
def second(output, uri, **request):
    output.AnswerBuffer(b"second", "text/plain")

@route("/parity/status/([0-9]+)")
def status(output, uri, **request):
    code, body = int(request["groups"][0]), "no such \u00e9tude"
    try:
        output.SendHttpStatus(code, body, len(body.encode()))
    except TypeError:
        output.SendHttpStatus(code, body)

@route("/parity/code/([0-9]+)")
def code(output, uri, **request):
    output.SetHttpHeader("X-One", "1")
    output.SendHttpStatusCode(int(request["groups"][0]))

@route("/parity/method")
def method(output, uri, **request):
    output.SendMethodNotAllowed("GET,PUT")

@route("/parity/redirect")
def redirect(output, uri, **request):
    output.Redirect("/parity/first")

@route("/parity/unauthorized")
def unauthorized(output, uri, **request):
    output.SendUnauthorized("here")

@route("/parity/cookie")
def cookie(output, uri, **request):
    output.SetCookie("a", "b")
    output.AnswerBuffer("text", "text/plain")

@route("/parity/errors")
def errors(output, uri, **request):
    functions = {
        "none": [orthanc.LogWarning],
        "two": [orthanc.LogWarning, "a", "b"],
        "number": [orthanc.LogWarning, 1],
        "bytes": [orthanc.LogWarning, b"a"],
        "get": [orthanc.RestApiGet, b"/system"],
        "post": [orthanc.RestApiPost, "/x", 5],
        "metrics": [orthanc.SetMetricsValue, "a", "b", 0],
        "buffer": [output.AnswerBuffer, 1, "text/plain"],
        "mime": [output.AnswerBuffer, b"1"],
        "header": [output.SetHttpHeader, "X"],
        "status of one": [output.SendHttpStatus, 1],
        "status of four": [output.SendHttpStatus, 404, "a", 1, 1],
        "lookup": [orthanc.LookupStudy],
        "route": [orthanc.RegisterRestCallback, "/x"],
        "stored": [orthanc.RegisterOnStoredInstanceCallback, 1, 2],
        "class": [orthanc.RestOutput, "x"],
        "attribute": [getattr, orthanc, "RegisterOnChangesCallback"],
        "constant": [getattr, orthanc.ChangeType, "STABLE"],
    }
    found = {name: attempt(*call) for name, call in functions.items()}
    found |= {"keyword": attempt(orthanc.LogWarning, message="a"), "second": SECOND, "no callback": NONE}
    found |= {name: found[name][0] for name in ("keyword", "constant")}  # CPython's own words, of its version
    output.AnswerBuffer(json.dumps(found, sort_keys=True), "application/json")
"""

REQUESTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "get": ("GET", "/parity/echo/a", {}),
    "a query, encoded and repeated": ("GET", "/parity/echo/a?a=%20z&b=1&b=2&c&d=x+y&%20e=1", {}),
    "an optional group": ("GET", "/parity/echo/a/x", {}),
    "post": ("POST", "/parity/echo/a?a=1", {"body": "é"}),
    "put": ("PUT", "/parity/echo/a", {"body": "text"}),
    "delete": ("DELETE", "/parity/echo/a?a=1", {}),
    "a header": ("GET", "/parity/echo/a", {"headers": {"X-Some-Thing": "One Two"}}),
    "the first of two routes": ("GET", "/parity/first", {}),
    "the second of two routes": ("GET", "/parity/firsT", {}),
    "404 with a body": ("GET", "/parity/status/404", {}),
    "500 with a body": ("GET", "/parity/status/500", {}),
    "304": ("GET", "/parity/code/304", {}),
    "503": ("GET", "/parity/code/503", {}),
    "405": ("GET", "/parity/method", {}),
    "redirect": ("GET", "/parity/redirect", {}),
    "unauthorized": ("GET", "/parity/unauthorized", {}),
    "cookie": ("GET", "/parity/cookie", {}),
    "errors": ("GET", "/parity/errors", {}),
}


@pytest.fixture(scope="module")
def probed(start_orthanc_for_module: StartOrthanc) -> dict[str, Any]:
    """What the real plugin under test has."""
    return refresh.probe_plugin(start_orthanc_for_module(HERE / "probe.py"))


@pytest.fixture(scope="module")
def known(probed: dict[str, Any]) -> dict[str, Any]:
    """What the stand-in knows of the plugin under test; of the newest it knows, where that one is newer."""
    return api(probed["plugin"] if probed["plugin"] in known_versions() else known_versions()[-1])


@pytest.fixture(scope="module")
def real(start_orthanc_for_module: StartOrthanc) -> OrthancServer:
    return start_orthanc_for_module(PARITY)


@pytest.mark.parametrize("section", SECTIONS)
def test_the_stand_in_has_what_the_real_plugin_has(section: str, probed: dict[str, Any], known: dict[str, Any]) -> None:
    if probed["plugin"] == known["plugin"]:
        assert probed[section] == known[section], f"plugin {known['plugin']} changed: python -m testing.refresh"
    else:
        gone = {name: value for name, value in known[section].items() if probed[section].get(name) != value}
        assert not gone, f"plugin {probed['plugin']} is not known yet, and lacks this of {known['plugin']}"


def test_the_stand_in_module_holds_all_that_is_known_of_each_version() -> None:
    for version in known_versions():
        module = StandIn(version).module
        names = {name for name in vars(module) if not name.startswith("_")}
        assert names == {name for section in SECTIONS[:4] for name in api(version)[section]}
        for name, values in api(version)["enumerations"].items():
            assert {key: getattr(getattr(module, name), key) for key in values} == values
        for name, methods in api(version)["classes"].items():
            assert set(methods) <= set(vars(getattr(module, name)))


def test_versions_that_are_not_known_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"no plugin '3\.9' is known: one of 4\.0, 5\.0, 7\.1"):
        StandIn("3.9")


@pytest.mark.parametrize("name", REQUESTS)
def test_routes_answer_in_the_stand_in_as_in_the_real_plugin(
    name: str, real: OrthancServer, known: dict[str, Any]
) -> None:
    method, uri, arguments = REQUESTS[name]
    headers = {
        "Accept": "a",
        "Accept-Encoding": "b",
        "Connection": "keep-alive",
        "User-Agent": "d",
        **arguments.get("headers", {}),
    }
    body = arguments.get("body", "").encode()
    sent = real.request(method, uri, data=body, headers=headers, allow_redirects=False)
    standin = StandIn(known["plugin"])
    with standin.installed():
        standin.load(PARITY)
        also = {"Content-Length": str(len(body))} if body or method in ("POST", "PUT", "DELETE") else {}
        answer = standin.http(method, uri, body=body, headers={**headers, **also, "Host": "x"})
    assert_equal(answer, Answer(sent.status_code, dict(sent.headers), sent.content))
    assert not standin.unexpected


def assert_equal(answer: Answer, real: Answer) -> None:
    assert answer.status == real.status
    if real.headers.get("Content-Type") == "application/json":
        assert answer.json() == real.json()
    elif answer.body or answer.status == 200:
        assert answer.body == real.body
    assert {name: real.headers.get(name) for name in answer.headers} == answer.headers


def test_what_a_script_asks_without_a_prepared_answer_fails_and_says_how_to_prepare_it(
    orthanc_standin: StandIn,
) -> None:
    orthanc_standin.load("import orthanc\nsystem = lambda: orthanc.RestApiGet('/system')\n")
    with pytest.raises(AssertionError, match=r"asks GET /system .*standin\.answers\['GET', '/system'\] ="):
        orthanc_standin.module.RestApiGet("/system")
    with pytest.raises(
        AssertionError, match=r"GetDicomForInstance\('x',\) .*standin\.returns\['GetDicomForInstance'\]"
    ):
        orthanc_standin.module.GetDicomForInstance("x")
    with pytest.raises(AssertionError, match=r"DicomInstance\.GetInstanceData\(\).*GetInstanceData="):
        orthanc_standin.object("DicomInstance").GetInstanceData()
    assert len(orthanc_standin.unexpected) == 3
    orthanc_standin.unexpected.clear()


def test_prepared_answers_are_values_exceptions_or_functions(orthanc_standin: StandIn) -> None:
    orthanc = orthanc_standin.module
    orthanc_standin.configuration = {"Name": "é"}
    orthanc_standin.answers["GET", "/system"] = {"Version": "1.10.1"}
    orthanc_standin.answers["POST", "/tools/lookup"] = lambda body: body.upper()
    orthanc_standin.answers["DELETE", "/studies/x"] = orthanc.OrthancException(17, "Unknown resource")
    orthanc_standin.returns["GetDicomForInstance"] = lambda identifier: identifier.encode()
    assert json.loads(orthanc.GetConfiguration()) == {"Name": "é"}
    assert json.loads(orthanc.RestApiGet("/system"))["Version"] == "1.10.1"
    assert orthanc.RestApiPost("/tools/lookup", "a") == b"A"
    assert orthanc.GetDicomForInstance("x") == b"x"
    with pytest.raises(orthanc.OrthancException) as raised:
        orthanc.RestApiDelete("/studies/x")
    assert raised.value.args == (17, "Unknown resource")
    assert ("RestApiDelete", ("/studies/x",)) in orthanc_standin.calls


def test_events_reach_the_callbacks_and_only_real_ones_can_be_sent(orthanc_standin: StandIn) -> None:
    orthanc_standin.load(
        "import orthanc\n"
        "orthanc.RegisterOnChangeCallback(lambda *event: orthanc.LogInfo(repr(event)))\n"
        "orthanc.RegisterOnStoredInstanceCallback(lambda d, i: orthanc.LogError(f'{i} {d.GetInstanceSize()}'))\n"
    )
    orthanc = orthanc_standin.module
    orthanc_standin.change(orthanc.ChangeType.STABLE_STUDY, orthanc.ResourceType.STUDY, "x")
    dicom = orthanc_standin.object("DicomInstance", GetInstanceSize=3)
    orthanc_standin.callback("RegisterOnStoredInstanceCallback")(dicom, "y")
    assert orthanc_standin.logs == [("info", "(9, 1, 'x')"), ("error", "y 3")]
    with pytest.raises(AssertionError, match=r"99 is no orthanc\.ChangeType of plugin 4\.0"):
        orthanc_standin.change(99, 1, "x")


def test_a_script_is_loaded_anew_each_time_and_leaves_nothing_behind(tmp_path: Path) -> None:
    script = tmp_path / "some_script.py"
    (tmp_path / "beside_it.py").write_text("")
    script.write_text("import beside_it, orthanc\northanc.RegisterOnChangeCallback(print)\nFILE = __file__\n")
    path = list(sys.path)
    for _ in range(2):
        with StandIn().installed() as standin:
            assert str(script) == standin.load(script).FILE
            assert standin.registered == {"RegisterOnChangeCallback": [(print,)]}
    assert sys.path == path
    assert not {"orthanc", "some_script"} & set(sys.modules)
    with pytest.raises(AssertionError, match=r"inside `with standin\.installed\(\):`"):
        StandIn().load(script)


def test_a_package_is_loaded_anew_with_all_its_modules(tmp_path: Path) -> None:
    package = tmp_path / "quite_new_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "quiet.py").write_text("SEEN = []\n")
    (package / "speaks.py").write_text(
        "import orthanc\nfrom . import quiet\ndef speak():\n    orthanc.LogWarning('here')\n"
    )
    script = (
        f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nfrom quite_new_package import speaks\nspeaks.speak()\n"
    )
    for _ in range(2):
        standin = StandIn()
        with standin.installed():
            standin.load(script)
            standin.assert_logged("here", "warning")
        assert not [name for name in sys.modules if name.startswith("quite_new_package")]


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        ("pass", "answered nothing"),
        ("output.SendHttpStatus(404, 'é', 1)", "says 1 bytes, and the body has 2"),
        ("output.SendHttpStatus(405, 'no', 2)", "drops the connection"),
        ("output.AnswerBuffer('a', 'text/plain'), output.AnswerBuffer('b', 'text/plain')", "a second answer"),
        ("output.StartMultipartAnswer('mixed', 'text/plain')", "StartMultipartAnswer"),
    ],
)
def test_what_the_real_server_does_badly_is_refused(orthanc_standin: StandIn, handler: str, why: str) -> None:
    orthanc_standin.load(
        f"import orthanc\ndef handle(output, uri, **request):\n    {handler}\n"
        "orthanc.RegisterRestCallback('/x', handle)\n"
    )
    with pytest.raises(AssertionError, match=why):
        orthanc_standin.http("GET", "/x")
    orthanc_standin.unexpected.clear()


@pytest.mark.plugin_version("7.1")
def test_the_mark_chooses_the_version(orthanc_standin: StandIn) -> None:
    assert orthanc_standin.version == "7.1"
    assert hasattr(orthanc_standin.module, "RegisterMoveCallback3")


def test_the_type_stub_is_up_to_date_and_has_all_names_of_all_versions() -> None:
    text = (HERE / "stubs" / "orthanc.pyi").read_text()
    assert text == refresh.stub(), "python -m testing.refresh"
    names = {node.name for node in ast.parse(text).body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    assert names == {name for version in known_versions() for section in SECTIONS[:4] for name in api(version)[section]}


def test_the_type_stub_takes_as_many_arguments_as_the_plugin() -> None:
    newest = api(known_versions()[-1])
    expected = dict(newest["functions"])
    expected |= {f"{kind}.{name}": one for kind, methods in newest["classes"].items() for name, one in methods.items()}
    found: dict[str, int] = {}
    for node in ast.parse((HERE / "stubs" / "orthanc.pyi").read_text()).body:
        bodies = [("", node)] if not isinstance(node, ast.ClassDef) else [(f"{node.name}.", each) for each in node.body]
        for prefix, each in bodies:
            if isinstance(each, ast.FunctionDef):
                arguments = len(each.args.posonlyargs + each.args.args) - bool(prefix)
                found.setdefault(prefix + each.name, arguments)
    assert {name: found.get(name) for name in expected} == {name: one["arguments"] for name, one in expected.items()}
