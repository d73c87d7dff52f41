module leasehold.dev/hack/helm

go 1.26.0
