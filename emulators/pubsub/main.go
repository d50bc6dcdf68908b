// A Pub/Sub service in memory, on loopback: cloud.google.com/go/pubsub/v2/pstest as a process.
//
//	pubsub-emulator -addr 127.0.0.1:8085 [-journal FILE]
//
// It prints "ready HOST:PORT" when it listens (port 0: any free one), then "counts URL". Clients take
// PUBSUB_EMULATOR_HOST=HOST:PORT. GET URL?topic=projects/P/topics/T answers what became of a topic's messages, in JSON.
// Everything is kept until the process ends, also messages that were acknowledged. With a journal the next process goes
// on with its topics, subscriptions, messages and acknowledgements, however this one ends; leases end with it, and
// acknowledgements of a StreamingPull are forgotten.
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

	pb "cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	"google.golang.org/grpc"
)

// Counts says what became of the messages of a topic; acknowledgements of all its subscriptions are added up.
type Counts struct {
	Messages   int `json:"messages"`   // published
	Acked      int `json:"acked"`      // messages with at least one acknowledgement
	Acks       int `json:"acks"`       // acknowledgements
	Deliveries int `json:"deliveries"` // a message that comes again counts again; with a journal, since the last start
}

func main() {
	addr := flag.String("addr", "127.0.0.1:8085", "loopback host:port; port 0 is any free one")
	journal := flag.String("journal", "", "file that a later process goes on with")
	flag.Parse()
	host, _, err := net.SplitHostPort(*addr)
	if err == nil && host != "localhost" && !net.ParseIP(host).IsLoopback() {
		err = fmt.Errorf("%s is not a loopback address", *addr)
	}
	if err == nil && flag.NArg() > 0 {
		err = fmt.Errorf("unknown argument %s", flag.Arg(0))
	}
	if err != nil {
		end(2, err)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		end(2, err)
	}
	figures, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		end(1, err)
	}
	server := pstest.NewServer() // it listens elsewhere, too, where nobody asks
	service, err := over(server, *journal)
	if err != nil {
		end(1, err)
	}
	go service.Serve(listener)
	go http.Serve(figures, counts(server))
	fmt.Println("ready", listener.Addr())
	fmt.Printf("counts http://%s/\n", figures.Addr())
	<-stop
}

func end(code int, err error) {
	fmt.Fprintln(os.Stderr, "pubsub-emulator:", err)
	os.Exit(code)
}

// over is the service that clients see, of a server with the past of a journal, if there is one.
func over(server *pstest.Server, journal string) (*grpc.Server, error) {
	var options []grpc.ServerOption
	if journal != "" {
		j, err := open(journal, server)
		if err != nil {
			return nil, err
		}
		options = append(options, grpc.UnaryInterceptor(j.intercept))
	}
	service := grpc.NewServer(options...)
	pb.RegisterPublisherServer(service, &server.GServer)
	pb.RegisterSubscriberServer(service, &server.GServer)
	pb.RegisterSchemaServiceServer(service, &server.GServer)
	return service, nil
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
