// Verify checks certificates of certd with Go's crypto/x509.
//
// Usage: verify ROOT INTERMEDIATE HOST LEAF…
//
// Every file is PEM. It prints a line for each leaf and exits with 1 when crypto/x509 refuses one.
package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
)

func read(path string) (*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" || len(rest) != 0 {
		return nil, errors.New(path + " is not one PEM certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}

func verify(root, intermediate, host, leaf string) error {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for path, pool := range map[string]*x509.CertPool{root: roots, intermediate: intermediates} {
		certificate, err := read(path)
		if err != nil {
			return err
		}
		pool.AddCert(certificate)
	}
	certificate, err := read(leaf)
	if err != nil {
		return err
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		chains, err := certificate.Verify(x509.VerifyOptions{
			Roots:         roots,
			Intermediates: intermediates,
			DNSName:       host,
			KeyUsages:     []x509.ExtKeyUsage{usage},
		})
		if err != nil {
			return err
		}
		if len(chains) != 1 || len(chains[0]) != 3 {
			return fmt.Errorf("%d chains were found instead of one of three certificates", len(chains))
		}
	}
	if len(certificate.UnhandledCriticalExtensions) != 0 {
		return fmt.Errorf("unhandled critical extensions: %v", certificate.UnhandledCriticalExtensions)
	}
	return nil
}

func main() {
	if len(os.Args) < 5 {
		fmt.Fprintln(os.Stderr, "usage: verify ROOT INTERMEDIATE HOST LEAF…")
		os.Exit(2)
	}
	failed := false
	for _, leaf := range os.Args[4:] {
		if err := verify(os.Args[1], os.Args[2], os.Args[3], leaf); err != nil {
			failed = true
			fmt.Printf("%s: %v\n", leaf, err)
		} else {
			fmt.Printf("%s: OK\n", leaf)
		}
	}
	if failed {
		os.Exit(1)
	}
}
