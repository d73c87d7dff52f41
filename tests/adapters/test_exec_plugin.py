"""Programs that give credentials: real ones, run as kubectl runs them."""

import json
import os
import sys
import threading

import pytest

from leasehold.adapters.credentials import Credentials, CredentialsError, Given, Identity
from leasehold.adapters.exec_plugin import ExecPlugin

V1 = "client.authentication.k8s.io/v1"

PROGRAM = """#!{python}
import json, os, pathlib, sys
here = pathlib.Path(__file__).parent
runs = here / "runs"
runs.write_text(str(int(runs.read_text()) + 1) if runs.exists() else "1")
(here / "asked").write_text(json.dumps({{
    "info": json.loads(os.environ["KUBERNETES_EXEC_INFO"]),
    "arguments": sys.argv[1:],
    "region": os.environ.get("REGION", ""),
    "terminal": sys.stdin.isatty(),
}}))
answer = (here / "answer").read_text()
if answer.startswith("exit "):
    sys.exit(int(answer[5:]))
print(answer.replace("RUN", runs.read_text()))
"""


class Program:
    """A plugin in a folder of its own, that answers what the test says."""

    def __init__(self, folder):
        self.folder = folder
        self.path = folder / "get-token"
        self.path.write_text(PROGRAM.format(python=sys.executable))
        self.path.chmod(0o755)

    def answers(self, answer=None, version=V1, **status):
        document = {"apiVersion": version, "kind": "ExecCredential", "status": status}
        (self.folder / "answer").write_text(json.dumps(document) if answer is None else answer)

    def asked(self):
        return json.loads((self.folder / "asked").read_text())

    @property
    def runs(self):
        return int((self.folder / "runs").read_text())

    def plugin(self, cluster=None, now=lambda: 1000.0, terminal=lambda: False, **spec):
        spec = {"apiVersion": V1, "command": "./get-token", "interactiveMode": "Never", **spec}
        return ExecPlugin(spec, str(self.folder), cluster, now=now, terminal=terminal)


@pytest.fixture
def program(tmp_path):
    return Program(tmp_path)


class TestAsking:
    def test_it_is_told_what_kubectl_tells_it(self, program):
        program.answers(token="t")
        plugin = program.plugin(
            cluster={"server": "https://x"},
            args=["get", "token"],
            env=[{"name": "REGION", "value": "eu"}],
            provideClusterInfo=True,
        )
        assert plugin.given() == Given("t")
        assert program.asked() == {
            "info": {
                "apiVersion": V1,
                "kind": "ExecCredential",
                "spec": {"interactive": False, "cluster": {"server": "https://x"}},
            },
            "arguments": ["get", "token"],
            "region": "eu",
            "terminal": False,
        }

    def test_the_cluster_is_told_only_to_who_asks_for_it(self, program):
        program.answers(token="t")
        program.plugin(cluster={"server": "https://x"}).given()
        assert program.asked()["info"]["spec"] == {"interactive": False}

    @pytest.mark.parametrize(
        ("mode", "on_a_terminal", "interactive"),
        [("Never", True, False), ("IfAvailable", True, True), ("IfAvailable", False, False)],
    )
    def test_it_may_ask_a_person_where_there_is_one(self, program, mode, on_a_terminal, interactive):
        program.answers(token="t")
        program.plugin(interactiveMode=mode, terminal=lambda: on_a_terminal).given()
        assert program.asked()["info"]["spec"]["interactive"] is interactive

    def test_one_that_must_ask_a_person_needs_a_terminal(self, program):
        with pytest.raises(CredentialsError, match="needs a terminal"):
            program.plugin(interactiveMode="Always").given()

    def test_a_name_without_a_slash_is_found_on_the_path(self, program, monkeypatch):
        program.answers(token="t")
        monkeypatch.setenv("PATH", str(program.folder), prepend=os.pathsep)
        assert program.plugin(command="get-token").given() == Given("t")


class TestKeeping:
    def test_what_has_no_end_is_asked_for_once(self, program):
        program.answers(token="RUN")
        plugin = program.plugin()
        assert not plugin.fresh()
        assert [plugin.given().token for _ in range(3)] == ["1"] * 3
        assert plugin.fresh()

    def test_what_ends_is_asked_for_again_before_it_does(self, program):
        clock = [1000.0]
        program.answers(token="RUN", expirationTimestamp="1970-01-01T00:20:00Z")
        plugin = program.plugin(now=lambda: clock[0])
        assert plugin.given().token == "1"
        clock[0] = 1180.0
        assert plugin.given().token == "1"
        clock[0] = 1195.0
        assert not plugin.fresh()
        assert plugin.given().token == "2"

    def test_what_the_server_refused_is_asked_for_again(self, program):
        program.answers(token="RUN")
        plugin = program.plugin()
        plugin.given()
        plugin.forget()
        assert not plugin.fresh()
        assert plugin.given().token == "2"

    def test_many_threads_run_it_once(self, program):
        program.answers(token="RUN")
        plugin = program.plugin()
        threads = [threading.Thread(target=plugin.given) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert program.runs == 1


class TestTrouble:
    @pytest.mark.parametrize(
        ("answer", "why"),
        [
            ("exit 3", "exit code 3"),
            ("no json", "printed no ExecCredential"),
            ("[]", "printed no ExecCredential"),
            ('{"status": {"token": "secret", "expirationTimestamp": "soon"}}', "printed no ExecCredential"),
            (json.dumps({"apiVersion": V1, "status": {}}), "with a token, or a certificate"),
            (json.dumps({"apiVersion": V1 + "beta1", "status": {"token": "secret"}}), "but of"),
        ],
    )
    def test_what_it_does_wrong_is_said_and_nothing_secret_with_it(self, program, answer, why):
        program.answers(answer)
        with pytest.raises(CredentialsError, match=why) as caught:
            program.plugin().given()
        assert "secret" not in str(caught.value)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None

    def test_one_that_is_not_installed_is_answered_with_its_hint(self, program):
        with pytest.raises(CredentialsError, match="install it: brew install it"):
            program.plugin(command="no-such-program-here", installHint="brew install it").given()

    def test_one_that_cannot_be_run(self, program):
        (program.folder / "plain").write_text("text")
        with pytest.raises(CredentialsError, match="cannot be run"):
            program.plugin(command="./plain").given()

    @pytest.mark.parametrize(
        ("spec", "why"),
        [
            ({"apiVersion": "client.authentication.k8s.io/v1alpha1"}, "set its apiVersion to"),
            ({"command": ""}, "names no command"),
        ],
    )
    def test_what_a_kubeconfig_says_wrong_is_known_before_it_runs(self, program, spec, why):
        with pytest.raises(CredentialsError, match=why):
            program.plugin(**spec)

    def test_one_that_hangs_is_given_up(self, program, monkeypatch):
        monkeypatch.setattr("leasehold.adapters.exec_plugin.LIMIT_SECONDS", 0.2)
        with pytest.raises(CredentialsError, match="has not ended"):
            program.plugin(command="sleep", args=["30"]).given()


class TestIdentities:
    def test_headers_and_certificate_come_from_it(self, program, certificate):
        cert, key = (path.read_text() for path in certificate)
        program.answers(token="RUN", clientCertificateData=cert, clientKeyData=key)
        identity = Identity(
            Credentials("https://x", plugin=program.plugin(), impersonate=(("Impersonate-User", "j"),))
        )
        assert not identity.ready()
        assert identity.headers() == [("Authorization", "Bearer 1"), ("Impersonate-User", "j")]
        assert identity.ready()
        first = identity.tls()
        assert identity.tls() is first
        identity.forget()
        assert identity.tls() is not first
        assert identity.headers()[0] == ("Authorization", "Bearer 2")
        assert "Bearer" not in repr(identity)

    def test_nothing_secret_is_printed(self, program):
        assert repr(Given("secret", "secret", "secret")) == "Given(…)"
