// The raw ops' schemas, each family's beside its checks. The ops are private:
// fastcam/functional.py is what people call. Kernels register themselves for their device in cpu/
// and cuda/.
#include "ops/attend.h"
#include "ops/cam_loss.h"

STABLE_TORCH_LIBRARY(fastcam, m)
{
  fastcam::define_cam(m);
  fastcam::define_cam_loss(m);
  fastcam::define_attend(m);
  m.def("_cpu_isa() -> str");
}
