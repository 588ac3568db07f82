"""The login node's side: manifest, plan, submission, status, collection, tables and the command line."""
