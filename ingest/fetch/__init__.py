"""Make local what an ingest is given: addresses are downloaded, archives unpacked."""
