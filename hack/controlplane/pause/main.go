// Pause does nothing until it is told to end. It is the first container of every pod of a real node and holds
// what the others share, as registry.k8s.io/pause does where a registry can be reached.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	<-stop
}
