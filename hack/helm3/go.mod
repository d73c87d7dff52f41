module leasehold.dev/hack/helm3

go 1.26.0
