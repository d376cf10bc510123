module certd/tests/interop/ocsp_reader

go 1.21

require golang.org/x/crypto v0.22.0
