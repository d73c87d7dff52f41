// The Kueue whose definitions tests install: they are read from this module, and nothing of it is built.
module leasehold.dev/hack/kueue

go 1.26.0

require sigs.k8s.io/kueue v0.17.0
