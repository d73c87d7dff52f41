"""What kubeconfigs say: one as the reporter reads it, several as kubectl merges them; and what is refused."""

import base64
import json
import sys

import pytest

from leasehold.adapters.credentials import Credentials, CredentialsError
from leasehold.adapters.kubeconfig import Kubeconfig, credentials_of, from_kubeconfig


def encoded(text):
    return base64.b64encode(text.encode()).decode()


def kubeconfig(tmp_path, *, cluster=None, user=None, text=None, **changes):
    config = {
        "current-context": "here",
        "contexts": [
            {"name": "other", "context": {}},
            {"name": "here", "context": {"cluster": "c", "user": "u"}},
        ],
        "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1:6443", **(cluster or {})}}],
        "users": [{"name": "u", "user": user or {}}],
        **changes,
    }
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config) if text is None else text)
    return str(path)


class TestKubeconfig:
    def test_texts_are_decoded_and_files_found_beside_it(self, tmp_path):
        path = kubeconfig(
            tmp_path,
            cluster={
                "certificate-authority-data": encoded("CA"),
                "tls-server-name": "kube",
                "insecure-skip-tls-verify": True,
            },
            user={
                "client-certificate": "c.pem",
                "client-key-data": encoded("KEY"),
                "tokenFile": "/abs/token",
            },
        )
        found = from_kubeconfig(path)
        assert found.server == "https://10.0.0.1:6443"
        assert (found.ca_data, found.key_data, found.server_name, found.insecure) == (
            "CA",
            "KEY",
            "kube",
            True,
        )
        assert (found.cert_file, found.token_file) == (str(tmp_path / "c.pem"), "/abs/token")

    def test_yaml_is_read_where_pyyaml_is(self, tmp_path):
        text = """
        current-context: a
        contexts: [{name: a, context: {cluster: a}}]
        clusters: [{name: a, cluster: {server: "http://x"}}]
        """
        assert from_kubeconfig(kubeconfig(tmp_path, text=text)) == Credentials("http://x")

    def test_without_pyyaml_it_says_what_else_to_give(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "yaml", None)
        with pytest.raises(CredentialsError, match="--ca-file and --token-file"):
            from_kubeconfig(kubeconfig(tmp_path, text="a: b"))

    @pytest.mark.parametrize(
        ("how", "why"),
        [
            ({"text": "a: [b"}, "neither JSON nor YAML"),
            ({"text": "[]"}, "not a mapping"),
            ({"current-context": "nowhere"}, "no context named 'nowhere'"),
            ({"clusters": None}, "no cluster named 'c'"),
            ({"users": ["x"]}, "no user named 'u'"),
            ({"user": {"exec": {"command": "x"}}}, "runs a plugin"),
            ({"cluster": {"certificate-authority-data": "%%%"}}, "not base64"),
        ],
    )
    def test_what_cannot_be_used_is_named(self, tmp_path, how, why):
        with pytest.raises(CredentialsError, match=why):
            from_kubeconfig(kubeconfig(tmp_path, **how))

    def test_data_may_come_in_lines(self, tmp_path):
        """As `base64` writes it, in a block of YAML."""
        data = base64.encodebytes(b"CA" * 100).decode()
        assert data.count("\n") > 1
        path = kubeconfig(tmp_path, cluster={"certificate-authority-data": data})
        assert from_kubeconfig(path).ca_data == "CA" * 100

    def test_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(CredentialsError, match="No such file"):
            from_kubeconfig(str(tmp_path / "none"))


def written(folder, name, **config):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(json.dumps(config))
    return str(path)


def cluster(name, server):
    return {"name": name, "cluster": {"server": server}}


class TestMerging:
    def test_the_first_file_that_names_something_has_the_word(self, tmp_path):
        one = written(tmp_path, "one", clusters=[cluster("a", "https://one-a")])
        two = written(
            tmp_path,
            "two",
            **{"current-context": "two"},
            clusters=[cluster("a", "https://two-a"), cluster("b", "https://two-b")],
        )
        three = written(tmp_path, "three", **{"current-context": "three"})
        found = Kubeconfig([one, two, three, two])
        assert found.paths == (one, two, three)
        assert found.current == "two"
        assert found.entry("cluster", "a").text("server") == "https://one-a"
        assert found.entry("cluster", "b").text("server") == "https://two-b"

    @pytest.mark.parametrize("text", ["", "\n", "# nothing yet\n", "null"])
    def test_an_empty_file_says_nothing(self, tmp_path, text):
        """KUBECONFIG=/dev/null:config is a habit, and what a tool has just touched is empty."""
        empty = tmp_path / "empty"
        empty.write_text(text)
        one = written(tmp_path, "one", **{"current-context": "one"}, clusters=[cluster("a", "https://a")])
        found = Kubeconfig([str(empty), one])
        assert found.current == "one"
        assert found.entry("cluster", "a").text("server") == "https://a"
        with pytest.raises(CredentialsError, match="has no current context"):
            Kubeconfig([str(empty)]).context()

    def test_paths_are_relative_to_the_file_that_names_them(self, tmp_path):
        one = written(tmp_path / "x", "one", users=[{"name": "u", "user": {"tokenFile": "t"}}])
        two = written(tmp_path / "y", "two", users=[{"name": "v", "user": {"tokenFile": "t"}}])
        found = Kubeconfig([one, two])
        assert found.entry("user", "u").file("tokenFile") == str(tmp_path / "x" / "t")
        assert found.entry("user", "v").file("tokenFile") == str(tmp_path / "y" / "t")

    def test_a_name_that_is_not_there_is_answered_with_those_that_are(self, tmp_path):
        path = written(tmp_path, "one", clusters=[cluster("b", "x"), cluster("a", "x")])
        found = Kubeconfig([path])
        with pytest.raises(CredentialsError, match=r"no cluster named 'c'; it has: a, b"):
            found.entry("cluster", "c")
        with pytest.raises(CredentialsError, match=r"no current context; it has: none"):
            found.context()


class TestUsers:
    def test_what_is_written_in_the_file_goes_before_what_it_points_to(self, tmp_path):
        path = kubeconfig(
            tmp_path,
            cluster={"certificate-authority-data": encoded("CA"), "certificate-authority": "ca.pem"},
            user={
                "client-certificate": "c",
                "client-certificate-data": encoded("C"),
                "client-key": "k",
                "client-key-data": encoded("K"),
            },
        )
        found = from_kubeconfig(path)
        assert (found.ca_file, found.cert_file, found.key_file) == ("", "", "")
        assert (found.ca_data, found.cert_data, found.key_data) == ("CA", "C", "K")

    def test_impersonation_becomes_headers(self, tmp_path):
        path = kubeconfig(
            tmp_path,
            user={
                "as": "jane",
                "as-uid": "7",
                "as-groups": ["dev", "ops"],
                "as-user-extra": {"example.org/über": ["x"]},
            },
        )
        assert from_kubeconfig(path).impersonate == (
            ("Impersonate-User", "jane"),
            ("Impersonate-Group", "dev"),
            ("Impersonate-Group", "ops"),
            ("Impersonate-Uid", "7"),
            ("Impersonate-Extra-example.org%2F%C3%BCber", "x"),
        )

    @pytest.mark.parametrize(
        ("user", "why"),
        [
            ({"auth-provider": {"name": "gcp"}}, "use an exec plugin"),
            ({"username": "a", "password": "b"}, "no longer takes"),
            ({"as": "jane\r\nX-Evil: 1"}, "plain ASCII only"),
        ],
    )
    def test_what_is_no_longer_or_never_was_is_refused(self, tmp_path, user, why):
        with pytest.raises(CredentialsError, match=why):
            from_kubeconfig(kubeconfig(tmp_path, user=user))

    def test_a_cluster_without_a_server(self, tmp_path):
        path = written(tmp_path, "one", clusters=[{"name": "a", "cluster": {}}])
        with pytest.raises(CredentialsError, match="'a' has no server"):
            credentials_of(Kubeconfig([path]).entry("cluster", "a"), None)
