// A Pub/Sub service in memory, on loopback: cloud.google.com/go/pubsub/v2/pstest as a process.
//
//	pubsub-emulator -addr 127.0.0.1:8085
//
// It prints "ready HOST:PORT" when it listens (port 0: any free one), then "counts URL". Clients take
// PUBSUB_EMULATOR_HOST=HOST:PORT. GET URL?topic=projects/P/topics/T answers what became of a topic's messages, in JSON.
// Everything is kept until the process ends, also messages that were acknowledged.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"cloud.google.com/go/pubsub/v2/pstest"
)

// Counts says what became of the messages of a topic; acknowledgements of all its subscriptions are added up.
type Counts struct {
	Messages   int `json:"messages"`   // published
	Acked      int `json:"acked"`      // messages with at least one acknowledgement
	Acks       int `json:"acks"`       // acknowledgements
	Deliveries int `json:"deliveries"` // a message that comes again counts again
}

func main() {
	addr := flag.String("addr", "127.0.0.1:8085", "loopback host:port; port 0 is any free one")
	flag.Parse()
	host, _, err := net.SplitHostPort(*addr)
	if err == nil && host != "localhost" && !net.ParseIP(host).IsLoopback() {
		err = fmt.Errorf("%s is not a loopback address", *addr)
	}
	if err == nil && flag.NArg() > 0 {
		err = fmt.Errorf("unknown argument %s", flag.Arg(0))
	}
	if err == nil {
		err = free(*addr)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "pubsub-emulator:", err)
		os.Exit(2)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	server := pstest.NewServerWithAddress(*addr)
	defer server.Close()
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "pubsub-emulator:", err)
		os.Exit(1)
	}
	go http.Serve(listener, counts(server))
	fmt.Println("ready", server.Addr)
	fmt.Printf("counts http://%s/\n", listener.Addr())
	<-stop
}

// free says why nothing can listen on an address: pstest would panic.
func free(addr string) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	return listener.Close()
}

func counts(server *pstest.Server) http.Handler {
	var one sync.Mutex // pstest writes its figures into the messages that it hands out
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		one.Lock()
		defer one.Unlock()
		var c Counts
		for _, m := range server.Messages() {
			if m.Topic != r.URL.Query().Get("topic") {
				continue
			}
			c.Messages++
			c.Acks += m.Acks
			c.Deliveries += m.Deliveries
			if m.Acks > 0 {
				c.Acked++
			}
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(c)
	})
}
