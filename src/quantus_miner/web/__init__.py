"""HTTP: a bounded server, the job API and the metrics exporter."""
