// Probe is the program of the test pods. It tells what a process in its place may do, or waits.
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

const mounted = "/var/run/secrets/kubernetes.io/serviceaccount/"

func main() {
	if len(os.Args) == 2 && os.Args[1] == "wait" {
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM)
		fmt.Println("waiting")
		<-stop
		return
	}
	if len(os.Args) == 3 && os.Args[1] == "say" {
		fmt.Println(os.Args[2])
		return
	}
	told := map[string]any{"uid": os.Getuid(), "status": status(), "write": write()}
	review := `{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`
	told["review"] = ask("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", review)
	told["secrets"] = ask("GET", "/api/v1/secrets", "")
	_ = json.NewEncoder(os.Stdout).Encode(told)
}

// status returns the fields of proc_pid_status(5).
func status() map[string]string {
	fields := map[string]string{}
	text, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		fields[name] = strings.TrimSpace(value)
	}
	return fields
}

func write() string {
	if err := os.WriteFile("/written", nil, 0o600); err != nil {
		return err.Error()
	}
	return "written"
}

// ask sends one request to the API server as a client in a pod does, and returns status and body.
func ask(method, path, body string) map[string]any {
	token, _ := os.ReadFile(mounted + "token")
	authority, _ := os.ReadFile(mounted + "ca.crt")
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	client := http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}},
	}
	host := os.Getenv("KUBERNETES_SERVICE_HOST") + ":" + os.Getenv("KUBERNETES_SERVICE_PORT")
	request, err := http.NewRequest(method, "https://"+host+path, bytes.NewBufferString(body))
	if err != nil {
		return map[string]any{"error": err.Error()}
	}
	request.Header.Set("Authorization", "Bearer "+string(token))
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return map[string]any{"error": err.Error()}
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	return map[string]any{"host": host, "code": response.StatusCode, "body": string(text)}
}
