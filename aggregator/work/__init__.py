"""Heavy work beside the server: unmasking sums and making models, in processes and threads of their own."""
