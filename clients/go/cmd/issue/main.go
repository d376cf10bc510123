// Command issue connects to certd over mutual TLS, makes a P-256 key and a CSR, has a certificate issued and verifies it.
//
//	issue -address localhost:8443 -cert admin.pem -key admin-key.pem -root system-root.pem -authority web-ca -dns www.example.internal
//
// It prints the certificate as PEM on standard output, and what it verified on standard error. The private key stays in
// memory and ends with the program, unless -key-out names a file for it. With -batch it also tries a profile, a batch, a
// search and a revocation.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	certdv1 "certd/clients/go/certd/v1"
	"certd/clients/go/client"
)

type options struct {
	address, certificate, key, root string
	authority, tenant, dns          string
	issuerRoot, keyOut              string
	lifetime, timeout               time.Duration
	batch                           int
}

func main() {
	var o options
	flag.StringVar(&o.address, "address", "", "host:port of the gRPC API (required)")
	flag.StringVar(&o.certificate, "cert", "", "PEM file of the client certificate (required)")
	flag.StringVar(&o.key, "key", "", "PEM file of its private key (required)")
	flag.StringVar(&o.root, "root", "", "PEM file of the root that vouches for the server (required)")
	flag.StringVar(&o.authority, "authority", "", "id of the authority that issues (required)")
	flag.StringVar(&o.dns, "dns", "", "DNS names of the certificate, separated by commas (required)")
	flag.StringVar(&o.tenant, "tenant", "default", "id of the tenant")
	flag.StringVar(&o.issuerRoot, "issuer-root", "", "PEM file of the root to verify the new certificate against; default: what GetTrustBundle tells")
	flag.StringVar(&o.keyOut, "key-out", "", "new file for the private key (PKCS#8 PEM, mode 0600); default: it is not kept")
	flag.DurationVar(&o.lifetime, "lifetime", 0, "lifetime of the certificate, for example 24h; default: that of the profile")
	flag.IntVar(&o.batch, "batch", 0, "issue so many more in one call, for names below the first of -dns; find them, and revoke one")
	flag.DurationVar(&o.timeout, "timeout", 10*time.Second, "longest time the whole program may take")
	flag.Parse()
	for name, value := range map[string]string{"address": o.address, "cert": o.certificate, "key": o.key, "root": o.root, "authority": o.authority, "dns": o.dns} {
		if value == "" {
			fmt.Fprintf(os.Stderr, "issue: -%s is required; see issue -help\n", name)
			os.Exit(2)
		}
	}
	if err := run(o); err != nil {
		fmt.Fprintf(os.Stderr, "issue: %s\n", explain(err))
		os.Exit(1)
	}
}

func run(o options) error {
	ctx, cancel := context.WithTimeout(context.Background(), o.timeout)
	defer cancel()

	connection, err := connect(o)
	if err != nil {
		return err
	}
	defer connection.Close()

	names := strings.Split(o.dns, ",")
	csr, key, err := client.NewCSR(names...)
	if err != nil {
		return err
	}
	requestID, err := newUUID()
	if err != nil {
		return err
	}

	request := &certdv1.IssueCertificateRequest{
		Parent:    fmt.Sprintf("tenants/%s/authorities/%s", o.tenant, o.authority),
		Csr:       csr,
		RequestId: requestID,
	}
	if o.lifetime > 0 {
		request.Validity = &certdv1.IssueCertificateRequest_Lifetime{Lifetime: durationpb.New(o.lifetime)}
	}
	issued, err := certdv1.NewCertificateServiceClient(connection).IssueCertificate(ctx, request)
	if err != nil {
		return err
	}
	for _, warning := range issued.GetWarnings() {
		fmt.Fprintf(os.Stderr, "issue: warning: %s: %s\n", warning.GetField(), warning.GetMessage())
	}

	roots, err := issuerRoots(ctx, connection, o)
	if err != nil {
		return err
	}
	leaf, err := verify(issued, roots, names, key)
	if err != nil {
		return err
	}
	if o.keyOut != "" {
		if err := writeKey(o.keyOut, key); err != nil {
			return err
		}
	}
	fmt.Fprintf(os.Stderr, "issue: %s verified by crypto/x509 until %s\n", issued.GetName(), leaf.NotAfter.Format(time.RFC3339))
	fmt.Print(issued.GetCertificate().GetPem())
	if o.batch > 0 {
		return batch(ctx, connection, o, names[0])
	}
	return nil
}

// connect opens a mutual TLS connection; the server must be vouched for by the root alone.
func connect(o options) (*grpc.ClientConn, error) {
	transport, err := client.Credentials(o.certificate, o.key, o.root)
	if err != nil {
		return nil, err
	}
	return grpc.NewClient(o.address, grpc.WithTransportCredentials(transport))
}

// issuerRoots returns the roots to verify the new certificate against: those of a file, or of the tenant.
func issuerRoots(ctx context.Context, connection *grpc.ClientConn, o options) (*x509.CertPool, error) {
	if o.issuerRoot != "" {
		return client.ReadPool(o.issuerRoot)
	}
	bundle, err := certdv1.NewServerServiceClient(connection).GetTrustBundle(ctx, &certdv1.GetTrustBundleRequest{Tenant: "tenants/" + o.tenant})
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, root := range bundle.GetTenantRoots() {
		certificate, err := x509.ParseCertificate(root.GetDer())
		if err != nil {
			return nil, fmt.Errorf("root of the tenant: %w", err)
		}
		pool.AddCert(certificate)
	}
	return pool, nil
}

// verify checks chain, validity, names, purpose and key of what was issued.
func verify(issued *certdv1.Certificate, roots *x509.CertPool, names []string, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	leaf, err := x509.ParseCertificate(issued.GetCertificate().GetDer())
	if err != nil {
		return nil, fmt.Errorf("the issued certificate: %w", err)
	}
	intermediates := x509.NewCertPool()
	for _, link := range issued.GetChain() {
		certificate, err := x509.ParseCertificate(link.GetDer())
		if err != nil {
			return nil, fmt.Errorf("the chain: %w", err)
		}
		intermediates.AddCert(certificate)
	}
	for _, name := range names {
		_, err := leaf.Verify(x509.VerifyOptions{
			DNSName:       name,
			Roots:         roots,
			Intermediates: intermediates,
			KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		})
		if err != nil {
			return nil, fmt.Errorf("verify: %w", err)
		}
	}
	public, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok || !public.Equal(&key.PublicKey) {
		return nil, errors.New("verify: the certificate is for another key")
	}
	return leaf, nil
}

// explain names the certd reason of a failed call, its violations and when to come again.
func explain(err error) string {
	failed, ok := status.FromError(err)
	if !ok {
		return err.Error()
	}
	reason, more := failed.Code().String(), ""
	for _, detail := range failed.Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			reason = d.GetReason()
		case *errdetails.BadRequest:
			for _, violation := range d.GetFieldViolations() {
				more += fmt.Sprintf("\n  %s: %s", violation.GetField(), violation.GetDescription())
			}
		case *errdetails.RetryInfo:
			more += fmt.Sprintf("\n  try again after %s", d.GetRetryDelay().AsDuration())
		}
	}
	return fmt.Sprintf("%s: %s%s", reason, failed.Message(), more)
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	// An existing file may have a wider mode, so it is refused and not reused.
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := pem.Encode(file, &pem.Block{Type: "PRIVATE KEY", Bytes: der}); err != nil {
		file.Close()
		return err
	}
	return file.Close()
}

// newUUID returns a random UUID (RFC 9562, version 4): a repeated call with the same one never issues twice.
func newUUID() (string, error) {
	var u [16]byte
	if _, err := rand.Read(u[:]); err != nil {
		return "", err
	}
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:]), nil
}
