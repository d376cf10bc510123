// Command watch opens streams for scripts/bench: each watches what its identity is associated with. It answers a line on
// standard input by a line of JSON with what came since the line before; the first line it writes by itself, once every
// stream has told all that there is.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"

	certdv1 "certd/clients/go/certd/v1"
	"certd/clients/go/client"
)

// renewed is the type of the events whose way is measured.
const renewed = "managed-certificate.renewed"

// report is what came since the last one.
type report struct {
	// Synced is how many streams have told all that there is.
	Synced int `json:"synced"`
	// Answers is how many answers came, of every kind.
	Answers int `json:"answers"`
	// Delays are seconds from the time of a renewal to its receipt.
	Delays []float64 `json:"delays"`
	// Failures tell how streams ended.
	Failures []string `json:"failures"`
}

type watchers struct {
	lock   sync.Mutex
	report report
	synced int
}

func main() {
	address := flag.String("address", "", "host:port of the gRPC API")
	identities := flag.String("identities", "", "folder with a PEM file NAME.pem and NAME.key for each identity")
	root := flag.String("root", "", "PEM file of the root that vouches for the server")
	streams := flag.Int("streams", 1, "how many streams")
	perConnection := flag.Int("per-connection", 10, "streams of one connection")
	flag.Parse()
	if err := serve(*address, *identities, *root, *streams, *perConnection); err != nil {
		fmt.Fprintf(os.Stderr, "watch: %s\n", err)
		os.Exit(1)
	}
}

func serve(address, identities, root string, streams, perConnection int) error {
	certificates, err := filepath.Glob(filepath.Join(identities, "*.pem"))
	if err != nil {
		return err
	}
	if len(certificates) == 0 {
		return fmt.Errorf("%s holds no identities", identities)
	}
	all := &watchers{}
	var connection *grpc.ClientConn
	for number := 0; number < streams; number++ {
		if number%perConnection == 0 {
			certificate := certificates[(number/perConnection)%len(certificates)]
			transport, err := client.Credentials(certificate, certificate[:len(certificate)-len(".pem")]+".key", root)
			if err != nil {
				return err
			}
			if connection, err = grpc.NewClient(address, grpc.WithTransportCredentials(transport)); err != nil {
				return err
			}
		}
		go all.watch(connection)
		// Not all at one moment: that is another measurement.
		time.Sleep(time.Millisecond)
	}
	for all.count() < streams {
		time.Sleep(10 * time.Millisecond)
	}
	answers := json.NewEncoder(os.Stdout)
	if err := answers.Encode(all.take()); err != nil {
		return err
	}
	orders := bufio.NewScanner(os.Stdin)
	for orders.Scan() {
		if err := answers.Encode(all.take()); err != nil {
			return err
		}
	}
	return orders.Err()
}

func (w *watchers) watch(connection *grpc.ClientConn) {
	request := &certdv1.WatchManagedCertificatesRequest{}
	stream, err := certdv1.NewManagedCertificateServiceClient(connection).WatchManagedCertificates(context.Background(), request)
	if err != nil {
		w.failed(err)
		return
	}
	for {
		answer, err := stream.Recv()
		if err != nil {
			w.failed(err)
			return
		}
		w.note(answer, time.Now())
	}
}

func (w *watchers) note(answer *certdv1.WatchManagedCertificatesResponse, now time.Time) {
	w.lock.Lock()
	defer w.lock.Unlock()
	w.report.Answers++
	if answer.Kind == certdv1.WatchManagedCertificatesResponse_SYNCED {
		w.synced++
	}
	if answer.Kind == certdv1.WatchManagedCertificatesResponse_CHANGED && answer.Event.GetType() == renewed {
		w.report.Delays = append(w.report.Delays, now.Sub(answer.Event.Time.AsTime()).Seconds())
	}
}

func (w *watchers) failed(err error) {
	w.lock.Lock()
	defer w.lock.Unlock()
	// It counts as one that is there, or nobody would hear of it.
	w.synced++
	w.report.Failures = append(w.report.Failures, err.Error())
}

func (w *watchers) count() int {
	w.lock.Lock()
	defer w.lock.Unlock()
	return w.synced
}

func (w *watchers) take() report {
	w.lock.Lock()
	defer w.lock.Unlock()
	taken := w.report
	taken.Synced = w.synced
	w.report = report{}
	return taken
}
