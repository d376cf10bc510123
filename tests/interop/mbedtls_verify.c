// Verifies certificates of certd with mbedTLS.
//
// Usage: mbedtls_verify ROOT ABOVE HOST LISTS [LIST…] LEAF…
//
// ROOT, ABOVE (any number of certificates between the leaf and the root) and LEAF are PEM; the CRLs, of which LISTS is the
// number, are DER. It prints a line for each leaf: "good", or what mbedTLS says of it. Exits with 1 when it cannot read a
// file, and says so.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <mbedtls/error.h>
#include <mbedtls/version.h>
#include <mbedtls/x509_crl.h>
#include <mbedtls/x509_crt.h>
#include <psa/crypto.h>

static void check(const char *path, int result) {
  char text[200];
  if (result == 0) return;
  mbedtls_strerror(result, text, sizeof text);
  printf("%s cannot be read: %s\n", path, text);
  exit(1);
}

static void judge(const char *leaf, const char *above, const char *host, mbedtls_x509_crt *root, mbedtls_x509_crl *lists) {
  mbedtls_x509_crt chain;
  uint32_t flags = 0;
  char text[1000] = "";
  mbedtls_x509_crt_init(&chain);
  check(leaf, mbedtls_x509_crt_parse_file(&chain, leaf));
  check(above, mbedtls_x509_crt_parse_file(&chain, above));
  int result = mbedtls_x509_crt_verify(&chain, root, lists, host, &flags, NULL, NULL);
  if (result == 0) {
    puts("good");
  } else if (result == MBEDTLS_ERR_X509_CERT_VERIFY_FAILED) {
    mbedtls_x509_crt_verify_info(text, sizeof text, "", flags);
    // It ends each finding with a line of its own.
    for (char *end = text; (end = strchr(end, '\n')) != NULL;) *end = ';';
    puts(text);
  } else {
    check(leaf, result);
  }
  mbedtls_x509_crt_free(&chain);
}

int main(int count, char **arguments) {
  mbedtls_x509_crt root;
  mbedtls_x509_crl lists;
  int first = count > 5 ? 5 + atoi(arguments[4]) : count;
  if (first >= count) {
    fputs("usage: mbedtls_verify ROOT ABOVE HOST LISTS [LIST...] LEAF...\n", stderr);
    return 2;
  }
#if MBEDTLS_VERSION_MAJOR >= 3
  // What verifies signatures may be PSA there.
  if (psa_crypto_init() != PSA_SUCCESS) return 2;
#endif
  mbedtls_x509_crt_init(&root);
  mbedtls_x509_crl_init(&lists);
  check(arguments[1], mbedtls_x509_crt_parse_file(&root, arguments[1]));
  for (int place = 5; place < first; place++) check(arguments[place], mbedtls_x509_crl_parse_file(&lists, arguments[place]));
  for (int place = first; place < count; place++) judge(arguments[place], arguments[2], arguments[3], &root, &lists);
  mbedtls_x509_crl_free(&lists);
  mbedtls_x509_crt_free(&root);
  return 0;
}
