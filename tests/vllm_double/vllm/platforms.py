"""What the double runs on: a GPU, as far as others can tell."""


class Platform:
    def is_cuda_alike(self) -> bool:
        return True


current_platform = Platform()
