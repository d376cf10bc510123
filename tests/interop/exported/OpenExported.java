import java.io.ByteArrayInputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.AlgorithmParameters;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.MessageDigest;
import java.security.PrivateKey;
import java.security.PublicKey;
import java.security.Signature;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.cert.CertPathValidator;
import java.security.cert.PKIXParameters;
import java.security.cert.X509Certificate;
import java.util.ArrayList;
import java.util.Base64;
import java.util.Collections;
import java.util.HexFormat;
import java.util.List;
import javax.crypto.Cipher;
import javax.crypto.EncryptedPrivateKeyInfo;
import javax.crypto.SecretKeyFactory;
import javax.crypto.spec.PBEKeySpec;

/**
 * Opens what certd exported, with the classes that Java programs use for it.
 *
 * <p>Usage: java OpenExported.java pkcs8 KEY PASSPHRASE-FILE LEAF | pkcs12 FILE PASSPHRASE-FILE | pkcs7 FILE |
 * truststore FILE PASSPHRASE-FILE LEAF. Keys and leaves are PEM or DER.
 *
 * <p>It prints the alias of each entry, the SHA-256 of each public key whose private key makes good signatures, and that
 * of each certificate.
 */
public class OpenExported {
    public static void main(String[] arguments) throws Exception {
        byte[] data = Files.readAllBytes(Path.of(arguments[1]));
        switch (arguments[0]) {
            case "pkcs8" -> {
                X509Certificate leaf = certificates(Files.readAllBytes(Path.of(arguments[3]))).get(0);
                printKey(decrypted(der(data), passphrase(arguments[2]), leaf.getPublicKey()), leaf);
            }
            case "pkcs12" -> openKeyStore(data, passphrase(arguments[2]));
            case "pkcs7" -> {
                for (X509Certificate certificate : certificates(data)) {
                    print("certificate", certificate.getEncoded());
                }
            }
            case "truststore" ->
                openTrustStore(data, passphrase(arguments[2]), certificates(Files.readAllBytes(Path.of(arguments[3]))).get(0));
            default -> throw new IllegalArgumentException(arguments[0]);
        }
    }

    private static void openKeyStore(byte[] data, char[] passphrase) throws Exception {
        KeyStore store = KeyStore.getInstance("PKCS12");
        store.load(new ByteArrayInputStream(data), passphrase);
        for (String alias : Collections.list(store.aliases())) {
            System.out.println("alias " + alias);
            Certificate[] chain = store.getCertificateChain(alias);
            printKey((PrivateKey) store.getKey(alias, passphrase), (X509Certificate) chain[0]);
            for (Certificate certificate : chain) {
                print("certificate", certificate.getEncoded());
            }
        }
    }

    private static void openTrustStore(byte[] data, char[] passphrase, X509Certificate leaf) throws Exception {
        KeyStore store = KeyStore.getInstance("PKCS12");
        store.load(new ByteArrayInputStream(data), passphrase);
        for (String alias : Collections.list(store.aliases())) {
            if (!store.isCertificateEntry(alias)) {
                throw new GeneralSecurityException(alias + " is not trusted");
            }
            System.out.println("alias " + alias);
            print("certificate", store.getCertificate(alias).getEncoded());
        }
        PKIXParameters parameters = new PKIXParameters(store);
        parameters.setRevocationEnabled(false);
        CertPathValidator.getInstance("PKIX")
            .validate(CertificateFactory.getInstance("X.509").generateCertPath(List.of(leaf)), parameters);
        System.out.println("trusted");
    }

    private static PrivateKey decrypted(byte[] encrypted, char[] passphrase, PublicKey of) throws Exception {
        EncryptedPrivateKeyInfo info = new EncryptedPrivateKeyInfo(encrypted);
        AlgorithmParameters parameters = info.getAlgParameters();
        // PBES2 is a frame; what is in it has the name that Java knows.
        Cipher cipher = Cipher.getInstance(parameters.toString());
        cipher.init(
            Cipher.DECRYPT_MODE,
            SecretKeyFactory.getInstance(parameters.toString()).generateSecret(new PBEKeySpec(passphrase)),
            parameters);
        return KeyFactory.getInstance(of.getAlgorithm()).generatePrivate(info.getKeySpec(cipher));
    }

    private static void printKey(PrivateKey key, X509Certificate leaf) throws Exception {
        String algorithm = switch (key.getAlgorithm()) {
            case "EC" -> "SHA256withECDSA";
            case "RSA" -> "SHA256withRSA";
            default -> "Ed25519";
        };
        Signature signature = Signature.getInstance(algorithm);
        signature.initSign(key);
        signature.update(leaf.getEncoded());
        byte[] signed = signature.sign();
        signature.initVerify(leaf.getPublicKey());
        signature.update(leaf.getEncoded());
        if (!signature.verify(signed)) {
            throw new GeneralSecurityException("the key is not that of the certificate");
        }
        print("key", leaf.getPublicKey().getEncoded());
    }

    private static List<X509Certificate> certificates(byte[] data) throws Exception {
        List<X509Certificate> found = new ArrayList<>();
        for (Certificate certificate :
            CertificateFactory.getInstance("X.509").generateCertificates(new ByteArrayInputStream(data))) {
            found.add((X509Certificate) certificate);
        }
        return found;
    }

    private static char[] passphrase(String file) throws Exception {
        return Files.readString(Path.of(file)).stripTrailing().toCharArray();
    }

    private static byte[] der(byte[] data) {
        String text = new String(data, java.nio.charset.StandardCharsets.ISO_8859_1);
        if (!text.startsWith("-----BEGIN")) {
            return data;
        }
        return Base64.getMimeDecoder().decode(text.replaceAll("-----[A-Z ]+-----", ""));
    }

    private static void print(String what, byte[] data) throws Exception {
        byte[] digest = MessageDigest.getInstance("SHA-256").digest(data);
        System.out.println(what + " " + HexFormat.of().formatHex(digest));
    }
}
