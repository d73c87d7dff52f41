"""The command: its options, what it prints, and how it ends."""

import json
import signal
import subprocess
import sys

import pytest

from leasehold.adapters.credentials import Credentials
from leasehold.api.report import ReportStatus
from leasehold.reporter import main as module
from leasehold.reporter.main import main

FORBIDDEN = (
    "kopf",
    "kubernetes",
    "pydantic",
    "aiohttp",
    "prometheus_client",
    "asyncio",
    "http.client",
    "email",
    "yaml",
)


def usage_error(capsys, *arguments, environ=None):
    with pytest.raises(SystemExit) as ended:
        main(list(arguments), environ or {})
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


class TestOnce:
    def test_json_is_a_status_that_the_api_takes(self, capsys):
        assert main(["--once", "-o", "json", "--interval", "0.3", "--node-name", "n1"], {}) == 0
        status = json.loads(capsys.readouterr().out)
        ReportStatus.model_validate(status)
        assert [row["name"] for row in status["usage"]] == ["cpu", "memory", "ephemeral-storage"]

    def test_the_table_is_for_people(self, capsys):
        assert main(["--once", "--interval", "0.3"], {"NODE_NAME": "from-env"}) == 0
        printed = capsys.readouterr().out
        assert printed.startswith("Node  from-env\n")
        assert "CAPACITY" in printed

    def test_filesystems_are_those_asked_for_the_last_of_a_name(self, capsys):
        options = ["--filesystem", "nodefs=/gone", "--filesystem", "nodefs=/", "--filesystem", "shm=/dev/shm"]
        assert main(["--once", "-o", "json", "--interval", "0.3", *options], {}) == 0
        status = json.loads(capsys.readouterr().out)
        assert [row["name"] for row in status["filesystems"]] == ["nodefs", "shm"]

    def test_a_host_that_cannot_be_read_is_one_line_and_exit_1(self, capsys, tmp_path):
        try:
            assert main(["--once", "--procfs", str(tmp_path)], {}) == 1
        finally:
            __import__("psutil").PROCFS_PATH = "/proc"
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"is {tmp_path} this node's /proc?" in error


class TestOptions:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--once", "--interval", "0"], "between 0.1 and 86400"),
            (["--once", "--interval", "soon"], "not a number"),
            (["--threshold-percent", "101"], "between 0.1 and 100"),
            (["--filesystem", "nodefs"], "not NAME=/PATH"),
            (["--filesystem", "no defs=/"], "not NAME=/PATH"),
            (["--node-name", "Not_A_Node"], "give it by --node-name or NODE_NAME"),
            (["--kubeconfig", "a", "--server", "b"], "exclude each other"),
            (["--node-name", "n1"], "this is not a pod; give --kubeconfig or --server"),
            (["--onc"], "unrecognized arguments"),
        ],
    )
    def test_wrong_ones_are_one_line_and_exit_2(self, capsys, arguments, said):
        assert said in usage_error(capsys, *arguments)

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--kubeconfig", "/does/not/exist"], "No such file"),
            (["--server", "nonsense"], "is not a URL"),
            (["--server", "https://127.0.0.1:1", "--ca-file", "/does/not/exist"], "cannot be used"),
        ],
    )
    def test_credentials_that_do_not_work_are_one_line_and_exit_1(self, capsys, arguments, said):
        assert main(["--node-name", "n1", *arguments], {}) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert said in error

    def test_in_a_pod_the_service_account_is_used(self, monkeypatch):
        used = []
        monkeypatch.setattr(
            module, "_serve", lambda options, node, credentials: used.append(credentials) or 0
        )
        environ = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
        assert main(["--node-name", "n1"], environ) == 0
        assert main(["--node-name", "n1", "--server", "http://x", "--token-file", "/t"], environ) == 0
        assert [c.server for c in used] == ["https://10.0.0.1:443", "http://x"]
        assert used[1] == Credentials("http://x", token_file="/t")

    def test_chance_is_between_nought_and_one(self):
        rolls = {module._chance() for _ in range(100)}
        assert len(rolls) > 90
        assert all(0 <= roll < 1 for roll in rolls)


class TestProcess:
    def test_what_it_must_not_import_it_does_not(self):
        loaded = f"print([m for m in {FORBIDDEN} if m in sys.modules])"
        code = f"import sys, leasehold.cli.main, leasehold.reporter.main; {loaded}"
        shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert shown.stdout.strip() == "[]"

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_it_at_once_and_cleanly_even_with_a_request_under_way(self, script, number):
        server = script([lambda connection: server.hold(connection)])
        command = [
            sys.executable,
            "-m",
            "leasehold.cli.main",
            "reporter",
            "--node-name",
            "n1",
            "--server",
            server.url,
        ]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            assert '"started"' in process.stderr.readline()
            while not server.requests:
                assert process.poll() is None
            process.send_signal(number)
            _, rest = process.communicate(timeout=10)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 0
        assert [json.loads(line)["event"] for line in rest.splitlines()] == ["ended"]
