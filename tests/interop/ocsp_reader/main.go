// Asks an OCSP responder about certificates and prints a line for each: the status and who signed.
// Arguments: the URL, the issuer, the certificates; all PEM.
package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"

	"golang.org/x/crypto/ocsp"
)

func certificate(name string) *x509.Certificate {
	content, err := os.ReadFile(name)
	if err != nil {
		panic(err)
	}
	block, _ := pem.Decode(content)
	parsed, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		panic(err)
	}
	return parsed
}

func main() {
	issuer := certificate(os.Args[2])
	for _, name := range os.Args[3:] {
		subject := certificate(name)
		request, err := ocsp.CreateRequest(subject, issuer, nil)
		if err != nil {
			panic(err)
		}
		answer, err := http.Post(os.Args[1], "application/ocsp-request", bytes.NewReader(request))
		if err != nil {
			panic(err)
		}
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			panic(err)
		}
		response, err := ocsp.ParseResponseForCert(body, subject, issuer)
		if err != nil {
			fmt.Println(err)
			continue
		}
		status := map[int]string{ocsp.Good: "good", ocsp.Revoked: "revoked", ocsp.Unknown: "unknown"}[response.Status]
		fmt.Println(status, response.RevocationReason, response.Certificate != nil)
	}
}
