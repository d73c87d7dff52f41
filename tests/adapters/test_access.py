"""Which cluster a person means, and as whom: found where kubectl finds it."""

import json
import sys

import pytest

from leasehold.adapters import access
from leasehold.adapters.credentials import CredentialsError, Given


def config(path, **changes):
    path.write_text(
        json.dumps(
            {
                "current-context": "dev",
                "contexts": [
                    {"name": "dev", "context": {"cluster": "c", "user": "u", "namespace": "team-a"}},
                    {"name": "ops", "context": {"cluster": "d", "user": "v"}},
                ],
                "clusters": [
                    {"name": "c", "cluster": {"server": "https://c"}},
                    {"name": "d", "cluster": {"server": "https://d"}},
                ],
                "users": [
                    {"name": "u", "user": {"token": "t"}},
                    {"name": "v", "user": {"token": "w"}},
                ],
                **changes,
            }
        )
    )
    return str(path)


class TestPlaces:
    def test_the_file_that_is_named_goes_first(self, tmp_path):
        named, other = config(tmp_path / "named"), config(tmp_path / "other", **{"current-context": "ops"})
        found = access.find(named, environ={"KUBECONFIG": other})
        assert (found.credentials.server, found.namespace, found.context) == ("https://c", "team-a", "dev")

    def test_then_those_of_the_environment_and_missing_ones_are_no_matter(self, tmp_path):
        paths = f"{tmp_path}/none::{config(tmp_path / 'one')}"
        assert access.find(environ={"KUBECONFIG": paths}).credentials.server == "https://c"

    def test_then_the_one_of_the_home_directory(self, tmp_path):
        (tmp_path / ".kube").mkdir()
        config(tmp_path / ".kube" / "config")
        assert access.find(environ={"HOME": str(tmp_path)}).credentials.server == "https://c"

    def test_then_the_pod(self, tmp_path):
        environ = {"HOME": str(tmp_path), "KUBERNETES_SERVICE_HOST": "10.96.0.1"}
        (tmp_path / "namespace").write_text("team-b\n")
        found = access.find(environ=environ, account=str(tmp_path))
        assert (found.credentials.server, found.namespace) == ("https://10.96.0.1:443", "team-b")
        assert access.find(environ=environ, account=f"{tmp_path}/none").namespace == "default"

    def test_where_there_is_nothing_it_says_what_to_give(self, tmp_path):
        with pytest.raises(CredentialsError, match="give --kubeconfig FILE"):
            access.find(environ={"HOME": str(tmp_path)})

    def test_a_file_that_is_named_must_be_there(self, tmp_path):
        with pytest.raises(CredentialsError, match="No such file"):
            access.find(f"{tmp_path}/none", environ={})


class TestChoices:
    def test_a_context_that_is_named(self, tmp_path):
        found = access.find(config(tmp_path / "one"), "ops")
        assert (found.credentials.server, found.namespace, found.context) == ("https://d", "default", "ops")

    def test_a_cluster_and_a_user_stand_in_for_those_of_the_context(self, tmp_path):
        found = access.find(config(tmp_path / "one"), cluster="d", user="v")
        assert (found.credentials.server, found.credentials.token) == ("https://d", "w")
        assert found.namespace == "team-a"

    def test_a_cluster_and_a_user_need_no_context(self, tmp_path):
        path = config(tmp_path / "one", **{"current-context": ""})
        assert access.find(path, cluster="d", user="v").credentials.server == "https://d"
        with pytest.raises(CredentialsError, match=r"no current context; it has: dev, ops"):
            access.find(path)

    def test_a_context_without_a_user_is_anonymous(self, tmp_path):
        path = config(tmp_path / "one", contexts=[{"name": "dev", "context": {"cluster": "c"}}])
        assert access.find(path).identity().headers() == []


class TestPlugins:
    def test_the_program_of_the_user_is_run_and_told_the_cluster(self, tmp_path):
        ca = tmp_path / "ca.pem"
        ca.write_text("PEM")
        script = (
            "import json,os;c=json.loads(os.environ['KUBERNETES_EXEC_INFO'])['spec']['cluster'];"
            "print(json.dumps({'apiVersion':'client.authentication.k8s.io/v1','status':{'token':'|'.join("
            "[c['server'],c['certificate-authority-data'],c['config']['audience'],c['tls-server-name'],"
            "str(c['insecure-skip-tls-verify'])])}}))"
        )
        path = config(
            tmp_path / "one",
            users=[
                {
                    "name": "u",
                    "user": {
                        "exec": {
                            "apiVersion": "client.authentication.k8s.io/v1",
                            "command": sys.executable,
                            "args": ["-c", script],
                            "interactiveMode": "Never",
                            "provideClusterInfo": True,
                        }
                    },
                }
            ],
            clusters=[
                {
                    "name": "c",
                    "cluster": {
                        "server": "https://c",
                        "certificate-authority": "ca.pem",
                        "tls-server-name": "kube",
                        "insecure-skip-tls-verify": True,
                        "extensions": [
                            {"name": "client.authentication.k8s.io/exec", "extension": {"audience": "us"}}
                        ],
                    },
                }
            ],
        )
        found = access.find(path)
        assert found.credentials.plugin.given() == Given("https://c|UEVN|us|kube|True")

    def test_a_token_that_is_written_down_goes_before_a_program(self, tmp_path):
        path = config(tmp_path / "one", users=[{"name": "u", "user": {"token": "t", "exec": {}}}])
        assert access.find(path).credentials.plugin is None

    @pytest.mark.parametrize("spec", ["x", {"command": ""}])
    def test_an_exec_that_says_nothing_is_refused(self, tmp_path, spec):
        with pytest.raises(CredentialsError, match=r"not a mapping|no command"):
            access.find(config(tmp_path / "one", users=[{"name": "u", "user": {"exec": spec}}]))

    def test_a_ca_that_cannot_be_read(self, tmp_path):
        path = config(
            tmp_path / "one",
            users=[{"name": "u", "user": {"exec": {"command": "x"}}}],
            clusters=[{"name": "c", "cluster": {"server": "https://c", "certificate-authority": "none"}}],
        )
        with pytest.raises(CredentialsError, match=r"CA .* cannot be read"):
            access.find(path)
