package main

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	pb "cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const topic, subscription = "projects/p/topics/t", "projects/p/subscriptions/s"

// Client is one of a service of its own.
type Client struct {
	pb.PublisherClient
	pb.SubscriberClient
	server *pstest.Server
	t      *testing.T
}

func begin(t *testing.T, path string) Client {
	t.Helper()
	server := pstest.NewServer()
	service, err := over(server, path)
	must(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	go service.Serve(listener)
	t.Cleanup(service.Stop)
	t.Cleanup(func() { server.Close() })
	channel, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	t.Cleanup(func() { channel.Close() })
	return Client{pb.NewPublisherClient(channel), pb.NewSubscriberClient(channel), server, t}
}

func (c Client) publish(payloads ...string) []string {
	c.t.Helper()
	request := &pb.PublishRequest{Topic: topic}
	for _, data := range payloads {
		request.Messages = append(request.Messages, &pb.PubsubMessage{Data: []byte(data)})
	}
	answer, err := c.Publish(c.t.Context(), request)
	must(c.t, err)
	return answer.MessageIds
}

// pull takes all that is there, by content.
func (c Client) pull() map[string]*pb.ReceivedMessage {
	c.t.Helper()
	answer, err := c.Pull(c.t.Context(), &pb.PullRequest{Subscription: subscription, ReturnImmediately: true})
	must(c.t, err)
	found := map[string]*pb.ReceivedMessage{}
	for _, m := range answer.ReceivedMessages {
		found[string(m.Message.Data)] = m
	}
	return found
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestTheNextServiceGoesOnWithWhatWasNotAcknowledged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	first := begin(t, path)
	_, err := first.CreateTopic(t.Context(), &pb.Topic{Name: topic})
	must(t, err)
	_, err = first.CreateSubscription(t.Context(), &pb.Subscription{Name: subscription, Topic: topic})
	must(t, err)
	first.publish("a", "b", "c")
	was := first.pull()
	_, err = first.Acknowledge(
		t.Context(), &pb.AcknowledgeRequest{Subscription: subscription, AckIds: []string{was["b"].AckId}},
	)
	must(t, err)
	whole, err := os.ReadFile(path)
	must(t, err)
	first.publish("d")
	both, err := os.ReadFile(path)
	must(t, err)
	for cut := len(whole); cut < len(both); cut++ { // the process ended within its last write
		must(t, os.WriteFile(path, both[:cut], 0o600))
		next := begin(t, path)
		now := next.pull()
		if len(now) != 2 || now["a"] == nil || now["c"] == nil {
			t.Fatalf("cut at %d: %v", cut, now)
		}
		for name, m := range now {
			before, after := was[name].Message, m.Message
			if before.MessageId != after.MessageId || !before.PublishTime.AsTime().Equal(after.PublishTime.AsTime()) {
				t.Fatalf("%v became %v", before, after)
			}
		}
		if n := next.server.Message(was["b"].Message.MessageId).Acks; n != 1 {
			t.Fatalf("acknowledged %d times", n)
		}
		if ids := next.publish("e"); ids[0] != "m3" {
			t.Fatalf("a message that is not the fourth: %v", ids)
		}
		if now := begin(t, path).pull(); len(now) != 3 || now["e"] == nil {
			t.Fatalf("cut at %d, and gone on: %v", cut, now)
		}
	}
}

func TestAnotherFileIsNotOverwritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "letter")
	must(t, os.WriteFile(path, []byte("this is no journal, and worth keeping"), 0o600))
	if _, err := over(pstest.NewServer(), path); err == nil {
		t.Fatal("it was taken")
	}
	if kept, err := os.ReadFile(path); err != nil || len(kept) != 37 {
		t.Fatalf("it is %q now: %v", kept, err)
	}
}
