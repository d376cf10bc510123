// Command load generates load for scripts/bench: callers that each have a connection, call, wait for the answer and call
// again. Orders come as lines of JSON on standard input, and each is answered by a line on standard output.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	certdv1 "certd/clients/go/certd/v1"
	"certd/clients/go/client"
)

const (
	// requests are made beforehand, each of a key of its own; then the first comes again.
	requests = 512
	// batchSize is how many certificates a batch has.
	batchSize   = 50
	tenant      = "tenants/default"
	callTimeout = time.Minute
)

// order is what comes in: either so many callers are to be connected, or all that are connected are to call. Times are
// seconds from now.
type order struct {
	Connect     int     `json:"connect"`
	Kind        string  `json:"kind"`
	Start       float64 `json:"start"`
	MeasureFrom float64 `json:"measure_from"`
	Until       float64 `json:"until"`
}

// outcome is what the callers saw: seconds of the calls that were answered in the measured time, and the serials of every
// answer that carries certificates.
type outcome struct {
	Latencies []float64 `json:"latencies"`
	Serials   []string  `json:"serials"`
	Requested int       `json:"requested"`
	Failures  []string  `json:"failures"`
}

type load struct {
	address, authority string
	transport          credentials.TransportCredentials
	csrs               [][]byte
	next               atomic.Uint64
	connections        []*grpc.ClientConn
	connected          int
}

func main() {
	address := flag.String("address", "", "host:port of the gRPC API")
	certificate := flag.String("cert", "", "PEM file of the client certificate")
	key := flag.String("key", "", "PEM file of its private key")
	root := flag.String("root", "", "PEM file of the root that vouches for the server")
	authority := flag.String("authority", "", "resource name of the authority that issues")
	flag.Parse()
	if err := serve(*address, *certificate, *key, *root, *authority); err != nil {
		fmt.Fprintf(os.Stderr, "load: %s\n", err)
		os.Exit(1)
	}
}

func serve(address, certificate, key, root, authority string) error {
	transport, err := client.Credentials(certificate, key, root)
	if err != nil {
		return err
	}
	l := &load{address: address, authority: authority, transport: transport}
	for number := 0; number < requests; number++ {
		csr, _, err := client.NewCSR(fmt.Sprintf("host-%d.bench.internal", number))
		if err != nil {
			return err
		}
		l.csrs = append(l.csrs, csr)
	}
	orders := bufio.NewScanner(os.Stdin)
	answers := json.NewEncoder(os.Stdout)
	for orders.Scan() {
		// Orders are timed from their arrival.
		arrived := time.Now()
		var o order
		if err := json.Unmarshal(orders.Bytes(), &o); err != nil {
			return err
		}
		result := outcome{}
		if o.Connect > 0 {
			if err := l.connect(o.Connect); err != nil {
				return err
			}
		} else {
			result = l.run(o, arrived)
		}
		if err := answers.Encode(result); err != nil {
			return err
		}
	}
	return orders.Err()
}

// connect has so many callers connected; handshakes are not what is measured.
func (l *load) connect(callers int) error {
	l.connected = callers
	for len(l.connections) < callers {
		connection, err := grpc.NewClient(l.address, grpc.WithTransportCredentials(l.transport))
		if err != nil {
			return err
		}
		l.connections = append(l.connections, connection)
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		_, err = certdv1.NewServerServiceClient(connection).GetServerInfo(ctx, &certdv1.GetServerInfoRequest{})
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

// run has every connected caller call until the end.
func (l *load) run(o order, arrived time.Time) outcome {
	at := func(seconds float64) time.Time { return arrived.Add(time.Duration(seconds * float64(time.Second))) }
	start, measureFrom, until := at(o.Start), at(o.MeasureFrom), at(o.Until)
	outcomes := make([]outcome, l.connected)
	var callers sync.WaitGroup
	for number, connection := range l.connections[:l.connected] {
		callers.Add(1)
		go func(result *outcome, connection *grpc.ClientConn) {
			defer callers.Done()
			time.Sleep(time.Until(start))
			for began := time.Now(); began.Before(until); began = time.Now() {
				if err := l.call(o.Kind, connection, result); err != nil {
					// It fails the measurement, so there is no reason to go on.
					result.Failures = append(result.Failures, err.Error())
					return
				}
				ended := time.Now()
				if !ended.Before(measureFrom) && ended.Before(until) {
					result.Latencies = append(result.Latencies, ended.Sub(began).Seconds())
				}
			}
		}(&outcomes[number], connection)
	}
	callers.Wait()
	var all outcome
	for _, one := range outcomes {
		all.Latencies = append(all.Latencies, one.Latencies...)
		all.Serials = append(all.Serials, one.Serials...)
		all.Requested += one.Requested
		all.Failures = append(all.Failures, one.Failures...)
	}
	return all
}

func (l *load) call(kind string, connection *grpc.ClientConn, result *outcome) error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	switch kind {
	case "unary":
		answer, err := certdv1.NewCertificateServiceClient(connection).IssueCertificate(ctx, l.request())
		if err != nil {
			return err
		}
		result.Serials = append(result.Serials, serial(answer.GetName()))
	case "batch":
		request := &certdv1.BatchIssueCertificatesRequest{Parent: l.authority}
		for number := 0; number < batchSize; number++ {
			request.Requests = append(request.Requests, l.request())
		}
		answer, err := certdv1.NewCertificateServiceClient(connection).BatchIssueCertificates(ctx, request)
		if err != nil {
			return err
		}
		for _, one := range answer.GetResults() {
			if failure := one.GetError(); failure != nil {
				return fmt.Errorf("%s: %s", failure.GetReason(), failure.GetMessage())
			}
			result.Serials = append(result.Serials, serial(one.GetCertificate().GetName()))
		}
	case "managed":
		id := fmt.Sprintf("m%d-%d", time.Now().UnixNano(), l.next.Add(1))
		_, err := certdv1.NewManagedCertificateServiceClient(connection).RequestManagedCertificate(ctx, &certdv1.RequestManagedCertificateRequest{
			Parent:               tenant,
			ManagedCertificateId: id,
			ManagedCertificate: &certdv1.ManagedCertificate{
				Authority:               l.authority,
				SubjectAlternativeNames: &certdv1.SubjectAlternativeNames{DnsNames: []string{id + ".bench.internal"}},
			},
		})
		if err != nil {
			return err
		}
		result.Requested++
	default:
		return fmt.Errorf("there is no kind of call named %q", kind)
	}
	return nil
}

// request returns the next of the requests that were made beforehand.
func (l *load) request() *certdv1.IssueCertificateRequest {
	return &certdv1.IssueCertificateRequest{Parent: l.authority, Csr: l.csrs[l.next.Add(1)%requests]}
}

func serial(name string) string {
	return name[strings.LastIndexByte(name, '/')+1:]
}
