"""How the programs beside the API server are started: kube-scheduler, kube-controller-manager and kwok."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leasehold.testing.errors import ControlPlaneError
from leasehold.testing.servers import Servers
from leasehold.testing.toolchain import KWOK

KWOK_NODE_ANNOTATION = "kwok.x-k8s.io/node"
"""Nodes with this annotation set to "fake" are kept ready, and their pods run, by kwok."""


def flags(program: str, kubeconfig: Path, servers: Servers) -> dict[str, str]:
    """Return the flags of a program on this API server. None of them listens anywhere."""
    match program:
        case "kube-scheduler":
            return {"--kubeconfig": str(kubeconfig), "--leader-elect": "false", "--secure-port": "0"}
        case "kube-controller-manager":
            return {
                "--kubeconfig": str(kubeconfig),
                "--leader-elect": "false",
                "--secure-port": "0",
                "--service-account-private-key-file": str(servers.service_account_key),
                "--root-ca-file": str(servers.ca_path),
            }
        case "kwok":
            return {
                "--kubeconfig": str(kubeconfig),
                "--manage-nodes-with-annotation-selector": f"{KWOK_NODE_ANNOTATION}=fake",
                "--node-lease-duration-seconds": "40",
            }
        case _:
            raise ControlPlaneError(f"{program} cannot be started: it is not a part of a control plane")


def files(program: str, directory: Path, pod_stages: Sequence[Path] | None = None) -> list[str]:
    """Return the arguments that name a program's files: of kwok the stages that nodes and pods go through.

    directory: where it was built, with its own stages beside it. pod_stages: those of pods, instead of its own.
    """
    if program != "kwok":
        return []
    own = [directory / name for name in KWOK.files if pod_stages is None or not name.startswith("pod-")]
    return [f"--config={path}" for path in (*own, *(pod_stages or ()))]
