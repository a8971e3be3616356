"""What the servers of hfkit share: the socket, the thread, the bodies of requests, secrets in files."""
