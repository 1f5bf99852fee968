// A program built on go-spiffe, as people write them: its SVID comes from the Workload API, and it knows by SPIFFE ID
// whom it talks to. HTTP and plain bytes, each over mTLS, as server and as client.
//
//	spiffe-peer serve SOCKET CLIENT_ID HTTP_ADDRESS TCP_ADDRESS
//	spiffe-peer get   SOCKET SERVER_ID URL
//	spiffe-peer tell  SOCKET SERVER_ID ADDRESS TEXT
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// Longer than any exchange of the tests takes.
const limit = 20 * time.Second

func main() {
	log.SetFlags(log.Lmicroseconds)
	if err := run(os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

func run(arguments []string) error {
	if len(arguments) < 4 {
		return errors.New("usage: spiffe-peer serve|get|tell SOCKET PEER_ID …")
	}
	command, socket, rest := arguments[0], arguments[1], arguments[3:]
	peer, err := spiffeid.FromString(arguments[2])
	if err != nil {
		return err
	}
	starting, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	source, err := workloadapi.NewX509Source(starting,
		workloadapi.WithClientOptions(workloadapi.WithAddr("unix://"+socket)))
	if err != nil {
		return fmt.Errorf("no SVID: %w", err)
	}
	defer source.Close()
	switch {
	case command == "serve" && len(rest) == 2:
		return serve(source, peer, rest[0], rest[1])
	case command == "get" && len(rest) == 1:
		return get(source, peer, rest[0])
	case command == "tell" && len(rest) == 2:
		return tell(source, peer, rest[0], rest[1])
	}
	return fmt.Errorf("%s: wrong arguments", command)
}

func serve(source *workloadapi.X509Source, client spiffeid.ID, httpAddress, tcpAddress string) error {
	authorizer := tlsconfig.AuthorizeID(client)
	lines, err := spiffetls.ListenWithMode(context.Background(), "tcp", tcpAddress,
		spiffetls.MTLSServerWithSource(authorizer, source))
	if err != nil {
		return err
	}
	go func() {
		for {
			connection, err := lines.Accept()
			if err != nil {
				log.Fatal(err)
			}
			go func() {
				if err := answer(connection); err != nil {
					log.Printf("%s: %v", connection.RemoteAddr(), err)
				}
			}()
		}
	}()
	requests, err := net.Listen("tcp", httpAddress)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           http.HandlerFunc(who),
		TLSConfig:         tlsconfig.MTLSServerConfig(source, source, authorizer),
		ReadHeaderTimeout: limit,
	}
	fmt.Println("listening")
	return server.ServeTLS(requests, "", "")
}

// who tells a client whom the server takes it for.
func who(w http.ResponseWriter, r *http.Request) {
	client, err := spiffetls.PeerIDFromConnectionState(*r.TLS)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("content-type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]string{
		"client": client.String(), "protocol": r.Proto, "alpn": r.TLS.NegotiatedProtocol,
	})
}

// answer tells a client the same, line by line.
func answer(connection net.Conn) error {
	defer connection.Close()
	lines := bufio.NewScanner(connection)
	for lines.Scan() {
		client, err := spiffetls.PeerIDFromConn(connection)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(connection, "%s said %s\n", client, lines.Text()); err != nil {
			return err
		}
	}
	return lines.Err()
}

func get(source *workloadapi.X509Source, server spiffeid.ID, url string) error {
	client := http.Client{Timeout: limit, Transport: &http.Transport{
		TLSClientConfig:   tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(server)),
		ForceAttemptHTTP2: true,
	}}
	reply, err := client.Get(url)
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	body, err := io.ReadAll(reply.Body)
	if err != nil {
		return err
	}
	id, err := spiffetls.PeerIDFromConnectionState(*reply.TLS)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"status": reply.StatusCode, "server": id.String(), "protocol": reply.Proto, "body": string(body),
		"reason": reply.Header.Get("x-kith-reason"), "tls": tls.VersionName(reply.TLS.Version),
	})
}

func tell(source *workloadapi.X509Source, server spiffeid.ID, address, text string) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	connection, err := spiffetls.DialWithMode(ctx, "tcp", address,
		spiffetls.MTLSClientWithSource(tlsconfig.AuthorizeID(server), source))
	if err != nil {
		return err
	}
	defer connection.Close()
	if _, err := fmt.Fprintln(connection, text); err != nil {
		return err
	}
	line, err := bufio.NewReader(connection).ReadString('\n')
	if err != nil {
		return err
	}
	id, err := spiffetls.PeerIDFromConn(connection)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"server": id.String(), "line": line})
}
