"""Where the API server is and who we are to it, from every source; and what is refused."""

import base64
import json
import os
import sys

import pytest

from leasehold.reporter.credentials import (
    Credentials,
    CredentialsError,
    Token,
    address_of,
    from_kubeconfig,
    in_cluster,
    tls_context,
)


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


class TestAddresses:
    @pytest.mark.parametrize(
        ("url", "expected", "authority"),
        [
            ("https://api.example", ("api.example", 443, True, ""), "api.example:443"),
            ("http://127.0.0.1:8080/", ("127.0.0.1", 8080, False, ""), "127.0.0.1:8080"),
            ("https://[fd00::1]:6443/a/b/", ("fd00::1", 6443, True, "/a/b"), "[fd00::1]:6443"),
        ],
    )
    def test_urls_are_taken_apart(self, url, expected, authority):
        assert address_of(url) == expected
        assert address_of(url).authority == authority

    @pytest.mark.parametrize(
        "url", ["", "api:6443", "ftp://x", "https://", "https://x:99999", "https://x y", "https://x?q"]
    )
    def test_what_is_no_url_is_refused_with_an_example(self, url):
        with pytest.raises(CredentialsError, match="such as https://"):
            address_of(url)


class TestInCluster:
    def test_outside_a_pod_there_is_none(self):
        assert in_cluster({}) is None

    def test_in_a_pod_it_is_the_service_account(self):
        environ = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "8443"}
        found = in_cluster(environ, "/sa")
        assert found == Credentials("https://10.96.0.1:8443", ca_file="/sa/ca.crt", token_file="/sa/token")

    def test_an_ipv6_service_gets_brackets(self):
        assert in_cluster({"KUBERNETES_SERVICE_HOST": "fd00::1"}).server == "https://[fd00::1]:443"

    def test_nothing_secret_is_printed(self):
        assert repr(Credentials("https://x", token="secret")) == "Credentials(https://x)"


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

    def test_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(CredentialsError, match="No such file"):
            from_kubeconfig(str(tmp_path / "none"))


class TestTokens:
    def test_a_fixed_token_or_none(self):
        assert Token(Credentials("x", token="t")).value() == "t"
        assert Token(Credentials("x")).value() == ""

    def test_a_file_never_there_is_an_error_and_one_briefly_gone_is_not(self, tmp_path):
        path = tmp_path / "token"
        token = Token(Credentials("x", token_file=str(path)))
        with pytest.raises(CredentialsError, match="token file"):
            token.value()
        path.write_text("t\n")
        assert token.value() == "t"
        path.unlink()
        assert token.value() == "t"

    def test_forgetting_reads_it_whatever_its_dates_say(self, tmp_path):
        path = tmp_path / "token"
        path.write_text("aaa")
        token = Token(Credentials("x", token_file=str(path)))
        token.value()
        stat = path.stat()
        path.write_text("bbb")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert token.value() == "aaa"
        token.forget()
        assert token.value() == "bbb"


class TestCertificates:
    def test_client_certificates_are_taken_as_files_and_as_text(self, certificate):
        cert, key = certificate
        as_files = Credentials("https://x", ca_file=str(cert), cert_file=str(cert), key_file=str(key))
        as_text = Credentials(
            "https://x", ca_data=cert.read_text(), cert_data=cert.read_text(), key_data=key.read_text()
        )
        for credentials in (as_files, as_text):
            assert tls_context(credentials).get_ca_certs()

    def test_insecure_verifies_nothing(self):
        context = tls_context(Credentials("https://x", insecure=True))
        assert not context.check_hostname
        assert not context.verify_mode

    def test_no_descriptor_is_left_open(self, certificate):
        cert, key = certificate
        before = len(os.listdir("/proc/self/fd"))
        tls_context(
            Credentials("https://x", insecure=True, cert_data=cert.read_text(), key_data=key.read_text())
        )
        assert len(os.listdir("/proc/self/fd")) == before
