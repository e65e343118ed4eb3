"""Videos whose masks public evaluators score as well, and what these say of them."""
