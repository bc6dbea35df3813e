"""Programs that print ratios and latencies from one interleaved run on one machine; figures are kept in RESULTS.md."""
