"""Requests of commands, against servers that refuse, are busy, page, or break off."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
from tests.scripted_server import http

from leasehold.adapters.access import Access
from leasehold.adapters.credentials import Credentials
from leasehold.cli import cluster as module
from leasehold.cli import doctor, get
from leasehold.cli.cluster import LEASES, POOLS, Cluster, Refused
from leasehold.cli.main import main

HEARS_ALL = """
import signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # or nohup, by which the tests may run, would be obeyed
from leasehold.cli.main import main
sys.exit(main())
"""
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def answer(document, status=200, *headers):
    return http(status, json.dumps(document).encode(), *headers)


def refusal(status, message="no", reason="", **details):
    document = {"kind": "Status", "message": message, "reason": reason, "code": status, "details": details}
    return answer(document, status)


def stream(*events):
    def send(connection):
        body = b"".join(json.dumps(event).encode() + b"\n" for event in events)
        connection.sendall(CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))

    return send


def lease(name="l", version="1", ready=False):
    conditions = [{"type": "Allocated", "status": "True" if ready else "False"}]
    return {
        "kind": "CapacityLease",
        "metadata": {"name": name, "namespace": "n", "uid": name, "resourceVersion": version},
        "spec": {},
        "status": {"conditions": conditions},
    }


@pytest.fixture
def connect(script, monkeypatch):
    made = []
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.01)

    def make(*connections, context="dev", timeout=5.0):
        server = script(*connections)
        made.append(Cluster(Access(Credentials(server.url), "n", context), timeout))
        made[-1].server = server
        return made[-1]

    yield make
    for each in made:
        each.close()


class TestRefusals:
    @pytest.mark.parametrize(
        ("method", "path", "answered", "said"),
        [
            ("GET", LEASES.path("n"), refusal(401), "does not know you: log in again"),
            ("GET", LEASES.path("n"), refusal(403), "ClusterRole leasehold-viewer"),
            ("POST", LEASES.path("n"), refusal(403), "ClusterRole leasehold-editor"),
            ("PATCH", POOLS.path(name="p"), refusal(403), "ClusterRole leasehold-admin"),
            ("GET", LEASES.path("n"), http(404, b"404 page not found"), "Leasehold is not installed"),
            ("GET", LEASES.path("n"), refusal(503), "try again in a while"),
        ],
    )
    def test_each_says_what_to_do(self, connect, method, path, answered, said):
        with pytest.raises(Refused, match=said) as caught:
            connect([answered]).ask(method, path)
        assert caught.value.code == 1

    def test_what_is_said_of_an_object_needs_no_more(self, connect):
        with pytest.raises(Refused) as caught:
            connect([refusal(404, 'capacityleases "x" not found', "NotFound", name="x")]).get(
                LEASES.path("n", "x")
            )
        assert str(caught.value) == 'capacityleases "x" not found'
        assert (caught.value.status, caught.value.reason) == (404, "NotFound")

    def test_a_busy_server_is_asked_once_more(self, connect):
        found = connect([answer({}, 429, "Retry-After: 0"), answer({"a": 1})]).get("/x")
        assert found == {"a": 1}

    def test_what_is_gone_already_need_not_be_deleted(self, connect):
        connect([refusal(404, name="x"), refusal(409, name="x")]).delete("/x")
        with pytest.raises(Refused):
            connect([refusal(403)]).delete("/x", "uid")


def test_names_cannot_lead_elsewhere():
    assert LEASES.path("a/b", "../c?d") == (
        "/apis/leasehold.dev/v1alpha1/namespaces/a%2Fb/capacityleases/..%2Fc%3Fd"
    )


def test_time_is_the_servers(connect):
    made = connect([answer({}, 200, "Date: Sun, 06 Nov 1994 08:49:37 GMT")])
    before = made.now()
    made.get("/")
    assert before - made.now() > 1e8
    assert made.date() == 784111777.0


def test_lists_come_page_by_page(connect):
    made = connect(
        [
            answer({"metadata": {"resourceVersion": "7", "continue": "more"}, "items": [lease("a")]}),
            answer({"metadata": {"resourceVersion": "8"}, "items": [lease("b")]}),
        ]
    )
    pages = list(made.pages(LEASES.path("n"), labelSelector="a=b"))
    assert [[item["metadata"]["name"] for item in items] for items, _ in pages] == [["a"], ["b"]]
    assert {version for _, version in pages} == {"7"}, "what changed between pages must be seen again"
    assert b"labelSelector=a%3Db" in made.server.requests[1]
    assert b"continue=more" in made.server.requests[1]


class TestWaiting:
    def until(self, made, test=lambda item: item["status"]["conditions"][0]["status"] == "True", timeout=5.0):
        return made.until(LEASES, "n", "l", test, timeout=timeout)

    def test_what_is_so_already_is_not_waited_for(self, connect):
        assert self.until(connect([answer(lease(ready=True))]))["metadata"]["name"] == "l"

    def test_every_change_is_looked_at(self, connect):
        seen = []
        events = [
            {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "2"}}},
            {"type": "MODIFIED", "object": lease(version="3")},
            {"type": "MODIFIED", "object": lease(version="4", ready=True)},
        ]
        made = connect([answer(lease())], [stream(*events)])
        found = made.until(
            LEASES,
            "n",
            "l",
            lambda item: item["status"]["conditions"][0]["status"] == "True",
            timeout=5.0,
            look=lambda item: seen.append(item["metadata"]["resourceVersion"]),
        )
        assert found["metadata"]["resourceVersion"] == "4"
        assert seen == ["1", "3", "4"]

    @pytest.mark.parametrize(
        "broken",
        [
            stream(),
            stream({"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}}),
            lambda connection: None,
            refusal(503),
            refusal(429),
            http(502, b"<html>Bad Gateway</html>"),
        ],
        ids=["ended", "too old", "broken", "not well", "busy", "a gateway"],
    )
    def test_a_stream_that_ends_is_begun_anew(self, connect, broken):
        made = connect([answer(lease())], [broken], [answer(lease(ready=True))])
        assert self.until(made)["metadata"]["name"] == "l"

    def test_one_that_is_gone_is_an_error(self, connect):
        gone = {"type": "DELETED", "object": lease()}
        made = connect([answer(lease())], [stream(gone)], [refusal(404, name="l")])
        with pytest.raises(Refused) as caught:
            self.until(made)
        assert caught.value.status == 404

    def test_the_time_that_is_given_is_kept(self, connect):
        made = connect(
            [answer(lease())], [stream({"type": "MODIFIED", "object": lease()})], [answer(lease())]
        )
        assert self.until(made, timeout=0.0) is None


def listed(*items):
    return answer({"metadata": {}, "items": list(items)})


class TestDoctor:
    """What is all right must not be warned of: who is warned each time looks no more."""

    BOUND = tuple({"spec": {"policyName": name}} for name in doctor._POLICIES)

    def found(self, made, check):
        return [(row.state, row.seen) for row in getattr(doctor._Checks(made, "n", "s"), check)()]

    def test_on_an_older_server_the_policy_that_it_cannot_have_is_not_missed(self, connect):
        validating = [row for row in self.BOUND if "finalizer" not in row["spec"]["policyName"]]
        made = connect([listed(*validating), refusal(404)])
        assert self.found(made, "_policies") == [(doctor.OK, "all 3 are in force")]
        made = connect([listed(*validating), listed()])
        ((state, seen),) = self.found(made, "_policies")
        assert (state, seen.partition(" ")[0]) == (doctor.WARNING, "release-finalizer.leasehold.dev")

    @pytest.mark.parametrize(
        ("sources", "state"),
        [
            ((), doctor.WARNING),
            (({"name": "cpu"},), doctor.WARNING),
            (({"name": "cpu", "source": "Allocatable"}, {"name": "memory", "source": "Fixed"}), doctor.OK),
        ],
    )
    def test_reports_are_missed_where_a_pool_needs_them(self, connect, sources, state):
        made = connect([listed(), listed({"spec": {"resources": list(sources)}})])
        assert [row[0] for row in self.found(made, "_reports")] == [state]

    @pytest.mark.parametrize(("period", "state"), [(5, doctor.BAD), (200, doctor.OK)])
    def test_a_reporter_that_looks_seldom_is_not_silent(self, connect, period, state):
        reported = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 400))
        report = {
            "metadata": {"name": "a"},
            "spec": {"reportPeriodSeconds": period},
            "status": {"reportTime": reported},
        }
        assert [row[0] for row in self.found(connect([listed(report)]), "_reports")] == [state]


class TestCommands:
    @pytest.fixture
    def against(self, script, monkeypatch, tmp_path, capsys):
        def run(*connections, arguments):
            server = script(*connections)
            path = tmp_path / "kubeconfig"
            config = {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c"}}],
                "clusters": [{"name": "c", "cluster": {"server": server.url}}],
            }
            path.write_text(json.dumps(config))
            monkeypatch.setenv("KUBECONFIG", str(path))
            code = main(list(arguments))
            shown = capsys.readouterr()
            return code, shown.out, shown.err

        return run

    def test_a_server_that_is_not_there_is_said_in_two_lines(self, monkeypatch, tmp_path, capsys):
        path = tmp_path / "kubeconfig"
        path.write_text("{}")
        code = main(["get", "--kubeconfig", str(path)])
        assert code == 1
        assert capsys.readouterr().err == (
            f"leasehold get: kubeconfig {path} has no current context; it has: none\n"
        )

    def test_a_connection_that_breaks_asks_whether_it_is_the_right_cluster(self, against):
        code, _, err = against([lambda connection: None], arguments=["get"])
        assert code == 1
        assert "Is this the cluster that you mean?" in err

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["get", "nonsense"], "there is no kind 'nonsense'"),
            (["get", "leases", "x", "-l", "a=b"], "exclude each other"),
            (["get", "leases", "x", "-A"], "names need a namespace"),
            (["get", "leases", "x", "y", "-w"], "takes one name"),
            (["get", "pools", "--pool", "x"], "--pool is for leases"),
            (["top", "--live", "-o", "json"], "it has no -o"),
            (["release"], "say which leases"),
            (["drain", "p", "--undo", "--wait"], "nothing to wait for"),
            (["acquire", "--pool", "p", "--cpu", "1", "--"], "say which command"),
            (["acquire", "--pool", "p", "--cpu", "1", "-o", "json", "--", "true"], "-o does not go"),
            (["acquire", "--pool", "p", "--cpu", "1", "--user", "u", "--", "true"], "name a context"),
        ],
    )
    def test_what_does_not_go_together_is_said(self, against, arguments, said):
        code, out, err = against(arguments=arguments)
        assert (code != 0, out) == (True, "")
        assert said in err
        assert err.count("\n") == 1

    def test_what_a_server_says_cannot_steer_the_terminal(self, against):
        code, _, err = against([refusal(400, "\x1b[2Jgone")], arguments=["get"])
        assert code == 1
        assert "\x1b" not in err

    def test_a_reader_that_has_seen_enough_is_no_error(self, script, tmp_path):
        page = {"metadata": {}, "items": [lease(f"l{n}") for n in range(2000)]}
        server = script([answer(page)])
        path = tmp_path / "kubeconfig"
        config = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c"}}],
            "clusters": [{"name": "c", "cluster": {"server": server.url}}],
        }
        path.write_text(json.dumps(config))
        line = f"{sys.executable} -m leasehold.cli.main get --kubeconfig {path} | head -1"
        shown = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
        assert shown.stdout.startswith("NAME")
        assert shown.stderr == ""

    def test_watching_goes_on_after_a_list_that_is_too_old(self, against, monkeypatch):
        listed = [answer({"metadata": {"resourceVersion": "5"}, "items": [lease("a", "5"), lease("b", "4")]})]
        too_old = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}}
        again = [answer({"metadata": {"resourceVersion": "9"}, "items": [lease("a", "5"), lease("b", "8")]})]
        last = {"type": "MODIFIED", "object": lease("c", "10")}
        code, out, err = against(
            listed, [stream(too_old)], again, [stream(last)], [refusal(403)], arguments=["get", "-w"]
        )
        assert code == 1
        assert "leasehold-viewer" in err
        assert [row.split()[0] for row in out.splitlines()] == ["NAME", "a", "b", "b", "c"]

    @pytest.mark.parametrize(
        "broken",
        [lambda connection: None, refusal(503), refusal(429), http(502, b"<html>Bad Gateway</html>")],
        ids=["broken", "not well", "busy", "a gateway"],
    )
    def test_watching_goes_on_after_the_server_was_away(self, against, monkeypatch, broken):
        monkeypatch.setattr(get, "AGAIN_SECONDS", 0.01)
        listed = [answer({"metadata": {"resourceVersion": "5"}, "items": [lease("a", "5")]})]
        last = {"type": "MODIFIED", "object": lease("b", "10")}
        code, out, err = against(
            listed, [broken], [broken], [stream(last)], [refusal(403)], arguments=["get", "-w"]
        )
        assert code == 1
        assert "leasehold-viewer" in err
        assert err.count("trying again") == 1
        assert [row.split()[0] for row in out.splitlines()] == ["NAME", "a", "b"]

    def test_what_stands_in_a_lease_cannot_steer_the_terminal(self, against):
        written = lease("l")
        written["status"]["conditions"][0] |= {"reason": "\x1b[2J", "message": "\x1b[2J"}
        code, out, _ = against([answer(written)], arguments=["explain", "l", "--read-only"])
        assert code == 0
        assert "Allocated=False" in out
        assert "\x1b" not in out

    def test_one_that_is_not_there_beside_another_cannot_steer_the_terminal(self, against):
        code, out, err = against(
            [refusal(404, "\x1b[2Jgone", name="x"), answer(lease("b"))], arguments=["get", "lease", "x", "b"]
        )
        assert code == 1
        assert [row.split()[0] for row in out.splitlines()] == ["NAME", "b"]
        assert "gone" in err
        assert "\x1b" not in err

    @contextmanager
    def started(self, tmp_path, server, *arguments, **environment):
        """A command in a process of its own, which signals may end, and the end of the block does."""
        path = tmp_path / "kubeconfig"
        config = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "namespace": "n"}}],
            "clusters": [{"name": "c", "cluster": {"server": server.url}}],
        }
        path.write_text(json.dumps(config))
        command = subprocess.Popen(
            [sys.executable, "-c", HEARS_ALL, *arguments, "--kubeconfig", str(path)],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with command:
            try:
                yield command
            finally:
                command.kill()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_a_request_is_withdrawn_when_a_signal_ends_the_wait(self, script, tmp_path, number):
        waits = threading.Event()

        def silent(connection):
            connection.sendall(CHUNKED)
            waits.set()
            connection.recv(1)

        made = lease("cli-1")
        server = script([answer(made, 201), answer(made)], [silent], [answer({})])
        with self.started(tmp_path, server, "acquire", "--pool", "p", "--cpu", "1", "--wait") as command:
            assert waits.wait(20), "it waits"
            command.send_signal(number)
            out, err = command.communicate(timeout=20)
        assert (command.returncode, out, err) == (128 + number, "", "")
        head, _, body = server.requests[-1].partition(b"\r\n\r\n")
        assert head.startswith(b"DELETE /apis/leasehold.dev/v1alpha1/namespaces/n/capacityleases/cli-1 ")
        assert json.loads(body) == {"preconditions": {"uid": "cli-1"}}

    @pytest.mark.parametrize("named", [False, True])
    def test_a_request_whose_answer_was_lost_is_withdrawn_if_its_name_is_ours(self, against, named):
        """One with a name of the user's may be another's."""
        asked = []

        def lost(connection):
            connection.sendall(b"HTTP/1.1 201")

        def withdrawn(connection):
            asked.append("withdrawn")
            connection.sendall(answer({}))

        code, out, err = against(
            [lost],
            [withdrawn],
            arguments=["acquire", *(["mine"] if named else []), "--pool", "p", "--cpu", "1"],
        )
        assert (code, out) == (125, "")
        assert "ended within an answer" in err
        assert asked == ([] if named else ["withdrawn"])

    @pytest.mark.parametrize("arguments", [["--wait"], ["--", "true"]])
    def test_without_a_cluster_acquire_says_that_it_was_not_the_command(
        self, monkeypatch, tmp_path, capsys, arguments
    ):
        path = tmp_path / "kubeconfig"
        path.write_text("{}")
        code = main(["acquire", "--pool", "p", "--cpu", "1", "--kubeconfig", str(path), *arguments])
        assert code == 125
        assert "has no current context" in capsys.readouterr().err

    def test_what_could_not_be_released_is_not_waited_for(self, against):
        over = lease("b")
        over["status"]["conditions"] = [{"type": "Released", "status": "True"}]
        code, out, err = against(
            [refusal(403), answer(lease("b")), answer(over)],
            arguments=["release", "a", "b", "--wait", "--timeout", "5s"],
        )
        assert (code, out) == (1, "lease/b released\n")
        assert err.endswith("ClusterRole leasehold-editor.\n")

    def test_what_the_output_has_no_letters_for_is_shown_as_its_number(self, script, tmp_path):
        page = {"metadata": {}, "items": [{**lease("a"), "spec": {"holder": {"identity": "借"}}}]}
        with self.started(tmp_path, script([answer(page)]), "get", PYTHONIOENCODING="ascii") as command:
            out, err = command.communicate(timeout=20)
        assert (command.returncode, err) == (0, "")
        assert "\\u501f" in out
