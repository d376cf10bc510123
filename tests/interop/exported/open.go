// Open opens what certd exported, with the libraries that Go programs use for it.
//
// Usage: open pkcs8|pkcs12|truststore FILE PASSPHRASE-FILE
//
// It prints the SHA-256 of the public key of the private key, if there is one, then the SHA-256 of each certificate, and
// exits with 1 when it cannot.
package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"

	"github.com/youmark/pkcs8"
	"software.sslmate.com/src/go-pkcs12"
)

func open(kind string, data []byte, passphrase string) (any, []*x509.Certificate, error) {
	switch kind {
	case "pkcs8":
		if block, _ := pem.Decode(data); block != nil {
			data = block.Bytes
		}
		key, err := pkcs8.ParsePKCS8PrivateKey(data, []byte(passphrase))
		return key, nil, err
	case "pkcs12":
		key, certificate, chain, err := pkcs12.DecodeChain(data, passphrase)
		return key, append([]*x509.Certificate{certificate}, chain...), err
	case "truststore":
		certificates, err := pkcs12.DecodeTrustStore(data, passphrase)
		return nil, certificates, err
	}
	return nil, nil, errors.New("no kind " + kind)
}

// publicKey returns the SubjectPublicKeyInfo of a private key that makes good signatures.
func publicKey(key any) ([]byte, error) {
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%T does not sign", key)
	}
	digest := sha256.Sum256([]byte("signed"))
	signature, err := sign(signer, digest[:])
	if err != nil {
		return nil, err
	}
	if !verifies(signer.Public(), digest[:], signature) {
		return nil, errors.New("the signature is wrong")
	}
	return x509.MarshalPKIXPublicKey(signer.Public())
}

func sign(signer crypto.Signer, digest []byte) ([]byte, error) {
	if _, ok := signer.(ed25519.PrivateKey); ok {
		return signer.Sign(rand.Reader, digest, crypto.Hash(0))
	}
	return signer.Sign(rand.Reader, digest, crypto.SHA256)
}

func verifies(public crypto.PublicKey, digest, signature []byte) bool {
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(key, digest, signature)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(key, crypto.SHA256, digest, signature) == nil
	case ed25519.PublicKey:
		return ed25519.Verify(key, digest, signature)
	}
	return false
}

func run(kind, file, passphraseFile string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	passphrase, err := os.ReadFile(passphraseFile)
	if err != nil {
		return err
	}
	key, certificates, err := open(kind, data, string(bytes.TrimSuffix(passphrase, []byte("\n"))))
	if err != nil {
		return err
	}
	if key != nil {
		spki, err := publicKey(key)
		if err != nil {
			return err
		}
		fmt.Printf("key %x\n", sha256.Sum256(spki))
	}
	for _, certificate := range certificates {
		fmt.Printf("certificate %x\n", sha256.Sum256(certificate.Raw))
	}
	return nil
}

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}
