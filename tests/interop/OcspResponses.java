// Judges chains by what an OCSP responder answers, as PKIX (RFC 5280, section 6.1, and RFC 6960) has it: a line for each leaf.
// Arguments: the URL, the authority that is trusted, the leaves.

import java.io.FileInputStream;
import java.net.URI;
import java.security.cert.CertPath;
import java.security.cert.CertPathValidator;
import java.security.cert.CertPathValidatorException;
import java.security.cert.CertificateFactory;
import java.security.cert.PKIXParameters;
import java.security.cert.PKIXRevocationChecker;
import java.security.cert.TrustAnchor;
import java.security.cert.X509Certificate;
import java.util.EnumSet;
import java.util.List;
import java.util.Set;

final class OcspResponses {
  public static void main(String[] arguments) throws Exception {
    CertificateFactory factory = CertificateFactory.getInstance("X.509");
    X509Certificate authority = certificate(factory, arguments[1]);
    for (int place = 2; place < arguments.length; place++) {
      CertPath path = factory.generateCertPath(List.of(certificate(factory, arguments[place])));
      CertPathValidator validator = CertPathValidator.getInstance("PKIX");
      PKIXRevocationChecker checker = (PKIXRevocationChecker) validator.getRevocationChecker();
      checker.setOptions(EnumSet.of(PKIXRevocationChecker.Option.NO_FALLBACK));
      checker.setOcspResponder(URI.create(arguments[0]));
      PKIXParameters parameters = new PKIXParameters(Set.of(new TrustAnchor(authority, null)));
      parameters.addCertPathChecker(checker);
      String verdict = "good";
      try {
        validator.validate(path, parameters);
      } catch (CertPathValidatorException refused) {
        verdict = refused.getReason() + " " + refused.getMessage();
      }
      System.out.println(verdict);
    }
  }

  private static X509Certificate certificate(CertificateFactory factory, String name) throws Exception {
    try (FileInputStream file = new FileInputStream(name)) {
      return (X509Certificate) factory.generateCertificate(file);
    }
  }
}
