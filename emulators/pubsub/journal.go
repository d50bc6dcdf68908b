package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	pb "cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Journal is a file of what changed a server, request by request, each with its time.
type Journal struct {
	file   *os.File
	server *pstest.Server
	one    sync.Mutex
}

// open does all requests of a file again, and goes on with it. A last one that the end of a process cut off was never
// answered, and is removed.
func open(path string, server *pstest.Server) (*Journal, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	reader, whole := bufio.NewReader(file), int64(0)
	for {
		at, body := &timestamppb.Timestamp{}, &anypb.Any{}
		err := read(reader, at)
		if err == nil {
			err = read(reader, body)
		}
		if err == io.EOF && whole == 0 {
			break // a new one
		}
		if whole > 0 && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) {
			break
		}
		var request proto.Message
		if err == nil {
			request, err = body.UnmarshalNew()
		}
		if err != nil {
			return nil, fmt.Errorf("%s is not a journal: %w", path, err)
		}
		server.SetTimeNowFunc(at.AsTime)
		repeat(&server.GServer, request)
		position, err := file.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		whole = position - int64(reader.Buffered())
	}
	server.SetTimeNowFunc(time.Now)
	return &Journal{file: file, server: server}, file.Truncate(whole)
}

// intercept writes a request down before the server takes it: no answer is forgotten. The server's clock stands still
// meanwhile, so that a message has the same time when the request is done again.
func (j *Journal) intercept(ctx context.Context, r any, _ *grpc.UnaryServerInfo, do grpc.UnaryHandler) (any, error) {
	if !changes(r) {
		return do(ctx, r)
	}
	j.one.Lock()
	defer j.one.Unlock()
	body, err := anypb.New(r.(proto.Message))
	if err != nil {
		return nil, err
	}
	var record bytes.Buffer
	at := timestamppb.Now()
	protodelim.MarshalTo(&record, at)
	protodelim.MarshalTo(&record, body)
	if _, err := j.file.Write(record.Bytes()); err != nil {
		return nil, err
	}
	j.server.SetTimeNowFunc(at.AsTime)
	defer j.server.SetTimeNowFunc(time.Now)
	return do(ctx, r)
}

// read takes a message of any size.
func read(reader protodelim.Reader, message proto.Message) error {
	return protodelim.UnmarshalOptions{MaxSize: -1}.UnmarshalFrom(reader, message)
}

func changes(request any) bool {
	switch request.(type) {
	case *pb.Topic, *pb.DeleteTopicRequest, *pb.Subscription, *pb.DeleteSubscriptionRequest, *pb.PublishRequest,
		*pb.AcknowledgeRequest:
		return true
	}
	return false
}

// repeat does a request again. What failed then fails now.
func repeat(service *pstest.GServer, request proto.Message) {
	none := context.Background()
	switch r := request.(type) {
	case *pb.Topic:
		service.CreateTopic(none, r)
	case *pb.DeleteTopicRequest:
		service.DeleteTopic(none, r)
	case *pb.Subscription:
		service.CreateSubscription(none, r)
	case *pb.DeleteSubscriptionRequest:
		service.DeleteSubscription(none, r)
	case *pb.PublishRequest:
		service.Publish(none, r)
	case *pb.AcknowledgeRequest:
		for i, id := range r.AckIds { // without the number of the delivery: now none came before
			r.AckIds[i], _, _ = strings.Cut(id, ":")
		}
		service.Acknowledge(none, r)
	}
}
