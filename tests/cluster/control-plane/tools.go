// Names what `cargo xtask test cluster` builds, so that go.mod and go.sum pin it.
//
// To move to another release: change the versions in go.mod (k8s.io/kubernetes and all its staging
// replacements), run `go mod tidy`, and change KUBERNETES in xtask/src/cluster.rs.

//go:build tools

package tools

import (
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kubectl"
)
