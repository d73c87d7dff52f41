"""The admission webhook for pods: stands in for the MutatingAdmissionPolicy where an API server has none.

Every replica serves (`server`) by the certificate that is in the Secret; whoever leads the first shard makes and renews
it, and tells API servers whom to trust (`keeper`).
"""
