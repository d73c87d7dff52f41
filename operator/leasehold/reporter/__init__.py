"""The process that runs on every node: it measures and writes one NodeReport.

Small on purpose. At run time it imports the standard library, psutil, ``core``, and of ``adapters`` what measures
(``host``, ``cgroups``) and what speaks to the API server (``credentials``, ``lean_http``); never kopf, pydantic or a
Kubernetes client library: each would double its memory.
"""
