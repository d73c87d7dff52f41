"""Where the API server is and who we are to it, from every source; and what is refused."""

import os
import subprocess

import pytest

from leasehold.adapters.credentials import (
    Credentials,
    CredentialsError,
    Identity,
    Token,
    address_of,
    in_cluster,
    tls_context,
)


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

    def test_a_key_that_asks_for_a_password_is_refused_instead(self, certificate, tmp_path):
        cert, key = certificate
        locked = tmp_path / "locked.pem"
        command = ["openssl", "pkey", "-aes256", "-passout", "pass:x", "-in", str(key), "-out", str(locked)]
        subprocess.run(command, check=True, capture_output=True)
        with pytest.raises(CredentialsError, match="cannot be used"):
            tls_context(Credentials("https://x", insecure=True, cert_file=str(cert), key_file=str(locked)))

    def test_elsewhere_than_on_linux_texts_go_through_a_file_that_is_gone_after(
        self, certificate, tmp_path, monkeypatch
    ):
        monkeypatch.setattr("leasehold.adapters.credentials.sys.platform", "darwin")
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        cert, key = (path.read_text() for path in certificate)
        tls_context(Credentials("https://x", insecure=True, cert_data=cert, key_data=key))
        assert not list(tmp_path.iterdir())


class TestIdentities:
    def test_a_token_that_could_forge_a_header_is_refused_and_not_printed(self):
        identity = Identity(Credentials("https://x", token="secret\r\nX-Evil: 1"))
        with pytest.raises(CredentialsError, match="characters that no token has") as caught:
            identity.headers()
        assert "secret" not in str(caught.value)

    def test_only_what_can_be_had_anew_is_renewable(self, tmp_path):
        assert not Identity(Credentials("https://x", token="t")).renewable
        assert Identity(Credentials("https://x", token_file=str(tmp_path))).renewable

    def test_without_a_token_there_is_no_header(self):
        identity = Identity(Credentials("https://x"))
        assert identity.ready()
        assert identity.headers() == []

    def test_nothing_secret_is_printed(self):
        assert repr(Identity(Credentials("https://x", token="secret"))) == "Identity(https://x)"
