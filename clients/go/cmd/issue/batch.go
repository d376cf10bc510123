package main

import (
	"context"
	"fmt"
	"os"

	"google.golang.org/grpc"

	certdv1 "certd/clients/go/certd/v1"
	"certd/clients/go/client"
)

const endEntity = "end-entity"

// batch asks whether a profile would let a CSR pass, has certificates for so many names below a domain issued in one call,
// finds them by that domain and revokes the first.
func batch(ctx context.Context, connection *grpc.ClientConn, o options, domain string) error {
	tenant := "tenants/" + o.tenant
	authority := tenant + "/authorities/" + o.authority
	certificates := certdv1.NewCertificateServiceClient(connection)

	// One request id for the batch: item n of a repeated call is what item n of the first one made.
	requestID, err := newUUID()
	if err != nil {
		return err
	}
	request := &certdv1.BatchIssueCertificatesRequest{Parent: authority, RequestId: requestID}
	for number := 1; number <= o.batch; number++ {
		// Nobody keeps the key.
		csr, _, err := client.NewCSR(fmt.Sprintf("n%d.%s", number, domain))
		if err != nil {
			return err
		}
		request.Requests = append(request.Requests, &certdv1.IssueCertificateRequest{Csr: csr})
	}

	checked, err := certdv1.NewProfileServiceClient(connection).CheckProfile(ctx, &certdv1.CheckProfileRequest{
		Name:      tenant + "/profiles/" + endEntity,
		Csr:       request.GetRequests()[0].GetCsr(),
		Authority: authority,
	})
	if err != nil {
		return err
	}
	for _, finding := range checked.GetFindings() {
		return fmt.Errorf("check: %s: %s: %s", finding.GetReason(), finding.GetField(), finding.GetDescription())
	}
	fmt.Fprintf(os.Stderr, "issue: check: %s lets the first pass\n", endEntity)

	answer, err := certificates.BatchIssueCertificates(ctx, request)
	if err != nil {
		return err
	}
	issued := map[string]bool{}
	for number, result := range answer.GetResults() {
		if failure := result.GetError(); failure != nil {
			return fmt.Errorf("batch: item %d: %s: %s", number+1, failure.GetReason(), failure.GetMessage())
		}
		issued[result.GetCertificate().GetName()] = true
	}
	fmt.Fprintf(os.Stderr, "issue: batch: %d issued\n", len(issued))

	found, err := search(ctx, certificates, authority, domain)
	if err != nil {
		return err
	}
	for _, certificate := range found {
		delete(issued, certificate.GetName())
	}
	if len(issued) > 0 {
		return fmt.Errorf("search: %d certificates of the batch were not found", len(issued))
	}
	fmt.Fprintf(os.Stderr, "issue: search: %d found below %s\n", len(found), domain)

	if requestID, err = newUUID(); err != nil {
		return err
	}
	revoked, err := certificates.RevokeCertificate(ctx, &certdv1.RevokeCertificateRequest{
		Name:      answer.GetResults()[0].GetCertificate().GetName(),
		Reason:    certdv1.RevocationReason_SUPERSEDED,
		RequestId: requestID,
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "issue: revoke: %s is %s (%s)\n", revoked.GetName(), revoked.GetState(), revoked.GetRevocationReason())
	return nil
}

// search returns the issued certificates with a DNS name at or below a domain. A page may be empty and not be the last.
func search(ctx context.Context, client certdv1.CertificateServiceClient, authority, domain string) ([]*certdv1.Certificate, error) {
	both := &certdv1.CertificateFilter_Filters{Filters: []*certdv1.CertificateFilter{
		{Condition: &certdv1.CertificateFilter_Domain{Domain: domain}},
		{Condition: &certdv1.CertificateFilter_State{State: certdv1.Certificate_ISSUED}},
	}}
	request := &certdv1.SearchCertificatesRequest{
		Parent: authority,
		Filter: &certdv1.CertificateFilter{Condition: &certdv1.CertificateFilter_AndFilters{AndFilters: both}},
	}
	var found []*certdv1.Certificate
	for {
		page, err := client.SearchCertificates(ctx, request)
		if err != nil {
			return nil, err
		}
		found = append(found, page.GetCertificates()...)
		if page.GetNextPageToken() == "" {
			return found, nil
		}
		request.PageToken = page.GetNextPageToken()
	}
}
