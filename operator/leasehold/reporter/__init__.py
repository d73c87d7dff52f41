"""The process that runs on every node: it measures and writes one NodeReport.

Small on purpose. At run time it imports the standard library, psutil, ``core``, ``adapters.host`` and
``adapters.cgroups``, and never kopf, pydantic or a Kubernetes client library: each would double its memory.
"""
