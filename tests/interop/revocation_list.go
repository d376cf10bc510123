// Reads a CRL, verifies it by the certificate of its issuer, and prints number and entries.
// Arguments: the certificate of the issuer in PEM, the CRL in DER.
package main

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
)

func main() {
	issuer, err := os.ReadFile(os.Args[1])
	check(err)
	block, _ := pem.Decode(issuer)
	certificate, err := x509.ParseCertificate(block.Bytes)
	check(err)
	der, err := os.ReadFile(os.Args[2])
	check(err)
	list, err := x509.ParseRevocationList(der)
	check(err)
	check(list.CheckSignatureFrom(certificate))
	fmt.Println("number", list.Number)
	for _, entry := range list.RevokedCertificateEntries {
		fmt.Printf("%032x %d\n", entry.SerialNumber, entry.ReasonCode)
	}
}

func check(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}
