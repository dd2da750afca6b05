"""The corpus: write parts, commit snapshots, plan epochs, stream tissue batches."""
