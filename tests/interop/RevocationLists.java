// Judges chains by CRLs that are given, as PKIX (RFC 5280, section 6.3) has it: a line for each leaf.
// Arguments: the root, the authority below it, the number of CRLs, the CRLs, the leaves.

import java.io.FileInputStream;
import java.security.cert.CertPath;
import java.security.cert.CertPathValidator;
import java.security.cert.CertPathValidatorException;
import java.security.cert.CertStore;
import java.security.cert.CertificateFactory;
import java.security.cert.CollectionCertStoreParameters;
import java.security.cert.CRL;
import java.security.cert.PKIXParameters;
import java.security.cert.PKIXRevocationChecker;
import java.security.cert.TrustAnchor;
import java.security.cert.X509Certificate;
import java.util.ArrayList;
import java.util.EnumSet;
import java.util.List;
import java.util.Set;

final class RevocationLists {
  public static void main(String[] arguments) throws Exception {
    CertificateFactory factory = CertificateFactory.getInstance("X.509");
    X509Certificate root = certificate(factory, arguments[0]);
    X509Certificate authority = certificate(factory, arguments[1]);
    int count = Integer.parseInt(arguments[2]);
    List<CRL> lists = new ArrayList<>();
    for (int place = 3; place < 3 + count; place++) {
      try (FileInputStream file = new FileInputStream(arguments[place])) {
        lists.add(factory.generateCRL(file));
      }
    }
    for (int place = 3 + count; place < arguments.length; place++) {
      CertPath path = factory.generateCertPath(List.of(certificate(factory, arguments[place]), authority));
      CertPathValidator validator = CertPathValidator.getInstance("PKIX");
      PKIXRevocationChecker checker = (PKIXRevocationChecker) validator.getRevocationChecker();
      checker.setOptions(EnumSet.of(PKIXRevocationChecker.Option.PREFER_CRLS, PKIXRevocationChecker.Option.NO_FALLBACK));
      PKIXParameters parameters = new PKIXParameters(Set.of(new TrustAnchor(root, null)));
      parameters.addCertPathChecker(checker);
      parameters.addCertStore(CertStore.getInstance("Collection", new CollectionCertStoreParameters(lists)));
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
