// Verify checks certificates of certd with Go's crypto/x509.
//
// Usage: verify ROOT INTERMEDIATES HOST LEAF…
//
// Every file is PEM, with one certificate in it except INTERMEDIATES, all of which have to stand in the chain. It prints a line
// for each leaf and exits with 1 when crypto/x509 refuses one.
package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
)

func readAll(path string) ([]*x509.Certificate, error) {
	rest, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var certificates []*x509.Certificate
	for len(rest) != 0 {
		block, after := pem.Decode(rest)
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New(path + " is not PEM of certificates alone")
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certificates, rest = append(certificates, certificate), after
	}
	return certificates, nil
}

func read(path string) (*x509.Certificate, error) {
	certificates, err := readAll(path)
	if err != nil {
		return nil, err
	}
	if len(certificates) != 1 {
		return nil, errors.New(path + " is not one PEM certificate")
	}
	return certificates[0], nil
}

func verify(root, intermediate, host, leaf string) error {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	trusted, err := read(root)
	if err != nil {
		return err
	}
	roots.AddCert(trusted)
	between, err := readAll(intermediate)
	if err != nil {
		return err
	}
	for _, certificate := range between {
		intermediates.AddCert(certificate)
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
		if len(chains) != 1 || len(chains[0]) != len(between)+2 {
			return fmt.Errorf("%d chains were found instead of one with every certificate", len(chains))
		}
	}
	if len(certificate.UnhandledCriticalExtensions) != 0 {
		return fmt.Errorf("unhandled critical extensions: %v", certificate.UnhandledCriticalExtensions)
	}
	return nil
}

func main() {
	if len(os.Args) < 5 {
		fmt.Fprintln(os.Stderr, "usage: verify ROOT INTERMEDIATES HOST LEAF…")
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
